# A future on a Kubernetes worker: a cluster future that outlives its worker.

#' @exportS3Method future::resolved
resolved.KubernetesFuture <- function(x, ...) {
  if (x[["state"]] == "created") {
    backend <- future::plan("backend")
    if (inherits(backend, "KubernetesFutureBackend")) {
      tick(backend)
      if (length(active_futures(backend)) >= length(backend[["workers"]])) {
        return(FALSE)
      }
    }
    x <- future::run(x)
    return(FALSE)
  }
  if (!is.null(x[["result"]])) {
    internal("signalEarly", "future")(x)
    return(TRUE)
  }
  internal("assertOwner", "future")(x)
  # The time that stock cluster futures spend waiting here, one after the other, is what makes a map of many slow.
  while (is.null(x[["result"]]) && x[["state"]] == "running") {
    con <- x[["backend"]][["workers"]][[x[["node"]]]]$con
    if (!socketSelect(list(con), timeout = 0)) {
      return(FALSE)
    }
    receive(x)
  }
  done <- !is.null(x[["result"]])
  if (done) internal("signalEarly", "future")(x)
  done
}

#' @exportS3Method future::result
result.KubernetesFuture <- function(future, ...) {
  repeat {
    result <- future[["result"]]
    if (inherits(result, "FutureError")) stop(result)
    if (!is.null(result)) {
      return(result)
    }
    if (future[["state"]] == "created") {
      future <- future::run(future)
    } else {
      backend <- future[["backend"]]
      con <- backend[["workers"]][[future[["node"]]]]$con
      if (socketSelect(list(con), timeout = 1)) receive(future) else tick(backend)
    }
  }
}

# One message of the future's worker; or its end, and then the future is made ready to be run again.
receive <- function(future) {
  index <- future[["node"]]
  backend <- future[["backend"]]
  node <- backend[["workers"]][[index]]
  message <- suppressWarnings(internal("receiveMessageFromWorker", "future")(future))
  if (inherits(message, "FutureInterruptError") && !inherits(message, "FutureCanceledError")) {
    lost(backend, future, node, index)
  } else if (inherits(message, "FutureLaunchError")) {
    registry <- internal("FutureRegistry", "future")
    if (registry(backend[["reg"]], action = "contains", future = future)) {
      registry(backend[["reg"]], action = "remove", future = future, earlySignal = FALSE)
    }
  }
  invisible()
}

lost <- function(backend, future, node, index) {
  reason <- tryCatch(ask("fate", node$attachment), error = function(e) "")
  if (!nzchar(reason)) reason <- "its connection ended: its pod was deleted, or its node is gone"
  drop_nodes(backend, index)
  backend[["ticked"]] <- -Inf # look for its replacement now
  future[["lost_pods"]] <- c(future[["lost_pods"]], node$host)
  future[["lost_reasons"]] <- c(future[["lost_reasons"]], reason)
  future[["node"]] <- NA_integer_
  label <- if (is.null(future[["label"]])) "<unnamed>" else future[["label"]]
  if (length(future[["lost_pods"]]) > backend[["retries"]]) {
    future[["state"]] <- "interrupted"
    future[["result"]] <- structure(
      future::FutureInterruptError(lost_message(label, future[["lost_pods"]], future[["lost_reasons"]]), future = future),
      pods = future[["lost_pods"]], reasons = future[["lost_reasons"]]
    )
    class(future[["result"]]) <- c("KubernetesWorkerLostError", "KubernetesError", class(future[["result"]]))
    return()
  }
  base::message(sprintf("Worker %s was lost (%s); future %s is run again", node$host, reason, label))
  # As good as new: whoever asks for its value next, or whether it is resolved, runs it.
  future[["result"]] <- NULL
  future[[".signaledConditions"]] <- NULL
  future[["state"]] <- "created"
  if (length(active_futures(backend)) < length(backend[["workers"]])) future::run(future)
}

lost_message <- function(label, pods, reasons) {
  memory <- any(grepl("(out of memory", reasons, fixed = TRUE))
  paste0(
    sprintf(ngettext(length(pods), "The worker of future %s was lost %d time", "The worker of future %s was lost %d times"),
      label, length(pods)
    ),
    ", and the future is given up: ", paste(sprintf("%s: %s", pods, reasons), collapse = "; "),
    if (memory) ". Raise 'workerMemoryGiB' of the stack, or send less data to each future"
  )
}
