# A future on a Kubernetes worker: a cluster future that is run again when its worker is lost.

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
  collect_result(x)
}

# TRUE if the future is resolved by what its worker has sent so far. It does not wait: stock cluster futures wait here,
# one after the other, which makes a map of many futures slow.
collect_result <- function(future) {
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

# Receive one message of the future's worker; when the worker has ended, prepare the future to be run again.
receive <- function(future) {
  index <- future[["node"]]
  backend <- future[["backend"]]
  node <- backend[["workers"]][[index]]
  message <- withCallingHandlers(
    suppressWarnings(internal("receiveMessageFromWorker", "future")(future)),
    interrupt = function(e) if (future[["state"]] == "running") abandon_message(backend, future, node)
  )
  if (inherits(message, "FutureInterruptError") && !inherits(message, "FutureCanceledError")) {
    handle_loss(backend, future, node)
  } else if (inherits(message, "FutureLaunchError")) {
    registry <- internal("FutureRegistry", "future")
    if (registry(backend[["reg"]], action = "contains", future = future)) {
      registry(backend[["reg"]], action = "remove", future = future, earlySignal = FALSE)
    }
    if (grepl("there is no package called", conditionMessage(message), fixed = TRUE)) {
      future[["result"]] <- package_error(future, message)
    }
  }
  schedule_release(backend)
  invisible()
}

# After Ctrl-C in the middle of a large value, the rest of it cannot be distinguished from the next message. The worker
# is dropped, and the future runs again when its value is requested.
abandon_message <- function(backend, future, node) {
  internal("FutureRegistry", "future")(backend[["reg"]], action = "remove", future = future, earlySignal = FALSE)
  drop_node(backend, node)
  reset_future(future)
}

# Back to the state "created": the next value() or resolved() runs the future.
reset_future <- function(future) {
  future[["node"]] <- NA_integer_
  future[["result"]] <- NULL
  future[[".signaledConditions"]] <- NULL
  future[["state"]] <- "created"
}

# The worker was lost while it ran the future: run the future on another worker, or end it with an error.
handle_loss <- function(backend, future, node) {
  reason <- outcome_of(node)
  if (!nzchar(reason)) reason <- "its connection ended: its pod was deleted, or its node is gone"
  drop_node(backend, node)
  if (!may_run_again(backend, future, node, reason)) {
    return()
  }
  reset_future(future)
  if (length(active_futures(backend)) < length(backend[["workers"]])) future::run(future)
}

# Records and reports the loss. FALSE when it was one too many: the future has ended with an error then.
may_run_again <- function(backend, future, node, reason) {
  pods <- future[["lost_pods"]] <- c(future[["lost_pods"]], node$host)
  reasons <- future[["lost_reasons"]] <- c(future[["lost_reasons"]], reason)
  future[["node"]] <- NA_integer_
  label <- label_of(future)
  if (length(pods) > backend[["retries"]]) {
    future[["state"]] <- "interrupted"
    future[["result"]] <- structure(
      future::FutureInterruptError(lost_message(label, pods, reasons), future = future),
      pods = pods, reasons = reasons
    )
    class(future[["result"]]) <- c("KubernetesWorkerLostError", "KubernetesError", class(future[["result"]]))
    return(FALSE)
  }
  base::message(sprintf("Worker %s was lost (%s); future %s is run again", node$host, reason, label))
  TRUE
}

label_of <- function(future) if (is.null(future[["label"]])) "<unnamed>" else future[["label"]]

# future itself mentions a missing package only among "possible other reasons" of a failed launch.
package_error <- function(future, error) {
  missing <- sub(".*(there is no package called [^ ]+).*", "\\1", conditionMessage(error))
  label <- label_of(future)
  error[["message"]] <- sprintf(paste(
    "Future %s cannot run on its worker: %s. Workers have only the packages of the image, not what install.packages()",
    "puts into this session's library: add it to 'rPackages' of the stack and run 'pulumi up'"
  ), label, missing)
  class(error) <- c("KubernetesPackageError", "KubernetesError", class(error))
  error
}

lost_message <- function(label, pods, reasons) {
  memory <- any(grepl("(out of memory", reasons, fixed = TRUE))
  paste0(
    sprintf("The worker of future %s was lost %d ", label, length(pods)), ngettext(length(pods), "time", "times"),
    ", and the future is given up: ", paste(sprintf("%s: %s", pods, reasons), collapse = "; "),
    if (memory) ". Raise 'workerMemoryGiB' of the stack, or send less data to each future"
  )
}
