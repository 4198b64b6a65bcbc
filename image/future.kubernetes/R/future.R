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
  take_in(x)
}

# Whether the future is resolved, with what its worker has sent so far. The time that stock cluster futures spend waiting
# here, one after the other, is what makes a map of many slow.
take_in <- function(future) {
  while (is.null(future[["result"]]) && future[["state"]] == "running") {
    con <- future[["backend"]][["workers"]][[future[["node"]]]]$con
    if (!socketSelect(list(con), timeout = 0)) {
      return(FALSE)
    }
    receive(future)
  }
  done <- !is.null(future[["result"]])
  if (done) internal("signalEarly", "future")(future)
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
  message <- withCallingHandlers(
    suppressWarnings(internal("receiveMessageFromWorker", "future")(future)),
    interrupt = function(e) if (future[["state"]] == "running") take_back(backend, future, node)
  )
  if (inherits(message, "FutureInterruptError") && !inherits(message, "FutureCanceledError")) {
    lost(backend, future, node)
  } else if (inherits(message, "FutureLaunchError")) {
    registry <- internal("FutureRegistry", "future")
    if (registry(backend[["reg"]], action = "contains", future = future)) {
      registry(backend[["reg"]], action = "remove", future = future, earlySignal = FALSE)
    }
    if (grepl("there is no package called", conditionMessage(message), fixed = TRUE)) {
      future[["result"]] <- package_error(future, message)
    }
  }
  rest(backend)
  invisible()
}

# Ctrl-C while a large value was on its way: what is left of it cannot be told from the next. The future runs again
# when it is asked for.
take_back <- function(backend, future, node) {
  internal("FutureRegistry", "future")(backend[["reg"]], action = "remove", future = future, earlySignal = FALSE)
  drop_node(backend, node)
  make_new(future)
}

# As good as new: whoever asks for its value next, or whether it is resolved, runs it.
make_new <- function(future) {
  future[["node"]] <- NA_integer_
  future[["result"]] <- NULL
  future[[".signaledConditions"]] <- NULL
  future[["state"]] <- "created"
}

lost <- function(backend, future, node) {
  reason <- fate_of(node)
  if (!nzchar(reason)) reason <- "its connection ended: its pod was deleted, or its node is gone"
  drop_node(backend, node)
  if (!may_run_again(backend, future, node, reason)) {
    return()
  }
  make_new(future)
  if (length(active_futures(backend)) < length(backend[["workers"]])) future::run(future)
}

fate_of <- function(node) tryCatch(ask("fate", node$attachment), error = function(e) "")

# Notes the loss and tells of it. FALSE when it was one too many: then the future has ended with an error.
may_run_again <- function(backend, future, node, reason) {
  future[["lost_pods"]] <- c(future[["lost_pods"]], node$host)
  future[["lost_reasons"]] <- c(future[["lost_reasons"]], reason)
  future[["node"]] <- NA_integer_
  label <- label_of(future)
  if (length(future[["lost_pods"]]) > backend[["retries"]]) {
    future[["state"]] <- "interrupted"
    future[["result"]] <- structure(
      future::FutureInterruptError(lost_message(label, future[["lost_pods"]], future[["lost_reasons"]]), future = future),
      pods = future[["lost_pods"]], reasons = future[["lost_reasons"]]
    )
    class(future[["result"]]) <- c("KubernetesWorkerLostError", "KubernetesError", class(future[["result"]]))
    return(FALSE)
  }
  base::message(sprintf("Worker %s was lost (%s); future %s is run again", node$host, reason, label))
  TRUE
}

label_of <- function(future) if (is.null(future[["label"]])) "<unnamed>" else future[["label"]]

# future tells it among "possible other reasons" of a launch that failed.
package_error <- function(future, error) {
  missing <- sub(".*(there is no package called [^ ]+).*", "\\1", conditionMessage(error))
  label <- label_of(future)
  error[["message"]] <- sprintf(paste(
    "Future %s cannot run on its worker: %s. Workers have the packages of the image alone, not what install.packages()",
    "puts into this session's library: add it to 'rPackages' of the stack and run 'pulumi up'"
  ), label, missing)
  class(error) <- c("KubernetesPackageError", "KubernetesError", class(error))
  error
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
