#' Run futures on the workers of this Kubernetes release
#'
#' Use it only in [future::plan()]. The plan requests the workers that it lacks, waits for them with a progress line,
#' and connects to all of them at once. The next plan, or the end of the session, releases them.
#'
#' @section A number, or two:
#' `workers = 40` is a fixed number. `workers = c(2, 40)` starts with two. While futures wait for a worker the number is
#' doubled, up to 40. Workers without a future for half a minute are released, down to two, also while R is at its
#' prompt. A lost worker is replaced as soon as Kubernetes has started another.
#'
#' @section Faults:
#' When a worker is lost (its pod deleted, out of memory, its node gone), its future is run again on another worker,
#' with the same random numbers when `seed = TRUE`. After `retries` times it ends with a `KubernetesWorkerLostError`,
#' see [kubernetes_conditions]. A future that changes something outside of R may therefore do so more than once.
#'
#' @param workers number of workers, or the minimum and the maximum number. By default the number that the release is
#'   set to have now; after it was scaled to 0, the number that it was deployed with.
#' @param retries how often a future is run again after its worker was lost.
#' @param wait maximum number of seconds to wait for workers. A problem that waiting does not cure (an image that cannot
#'   be pulled, no node that fits) ends the wait within seconds.
#' @param ... passed on to [future::MultiprocessFutureBackend()].
#' @param gc,earlySignal,interrupts as in [future::cluster()].
#'
#' @return Nothing: it is called by [future::plan()].
#'
#' @examples
#' if (file.exists("/run/future-kubernetes/broker.port")) {
#'   plan(kubernetes, workers = 2)
#'   f <- future(Sys.info()[["nodename"]])
#'   print(value(f))
#'   plan(sequential)
#' }
#' @export
kubernetes <- function(..., workers = NULL, retries = 2L, wait = 600, gc = FALSE, earlySignal = FALSE,
                       interrupts = TRUE) {
  stop("future.kubernetes::kubernetes() is not called directly: use plan(kubernetes)")
}

#' @rdname kubernetes
#' @export
KubernetesFutureBackend <- function(workers = NULL, retries = 2L, wait = 600, gc = FALSE, earlySignal = FALSE,
                                    interrupts = TRUE, ...) {
  made <- FALSE
  nodes <- list()
  on.exit(if (!made) {
    for (node in nodes) close_node(node)
    mark_failed_plan()
  })
  if (is.function(workers)) workers <- workers()
  range <- check_workers(if (is.null(workers)) default_workers() else workers)
  if (!is.numeric(retries) || length(retries) != 1L || is.na(retries) || retries < 0) {
    stop(kubernetes_error("Workers", "retries is ", deparse(retries), "; it is a whole number of at least 0"))
  }
  nodes <- acquire_workers(range[1L], wait)
  target <- attr(nodes, "wanted")
  attr(nodes, "wanted") <- NULL
  name <- sprintf("kubernetes-%d-%s", Sys.getpid(), nodes[[1L]]$lease)
  backend <- future::MultiprocessFutureBackend(
    workers = as_cluster(nodes, name), reg = paste0("workers-", name), gc = gc, earlySignal = earlySignal,
    interrupts = interrupts, ...
  )
  backend[["range"]] <- range(range)
  backend[["target"]] <- target
  backend[["retries"]] <- as.integer(retries)
  backend[["wait"]] <- wait
  backend[["tasks"]] <- integer()
  backend[["ticked"]] <- clock()
  backend[["free_since"]] <- numeric()
  backend[["futureClasses"]] <- c("KubernetesFuture", "ClusterFuture", backend[["futureClasses"]])
  made <- TRUE
  structure(backend, class = c("KubernetesFutureBackend", "ClusterFutureBackend", class(backend)))
}

# future keeps a failed plan, for futures to try it again. The same plan() a second time would be "the same as before"
# and would return as if it had succeeded. An attribute makes the failed plan a different one.
mark_failed_plan <- function() {
  stack <- future::plan("list")
  if (!inherits(stack[[1L]], "kubernetes")) {
    return(invisible())
  }
  attr(stack[[1L]], "failed") <- Sys.time()
  future::plan(stack, .init = FALSE, .cleanup = FALSE)
}

default_workers <- function() {
  wanted <- tryCatch(kubernetes_status()$wanted, KubernetesError = function(e) {
    counts <- count_workers()
    counts$free + counts$mine
  })
  if (wanted > 0L) wanted else max(1L, setting("workers"), na.rm = TRUE)
}

#' @exportS3Method future::launchFuture
launchFuture.KubernetesFutureBackend <- function(backend, future, ...) {
  # future passes its own errors on, and replaces other errors by one that says "unexpected".
  withCallingHandlers(launch(backend, future), KubernetesError = function(e) {
    own <- setdiff(class(e), c("error", "condition"))
    class(e) <- unique(c(own, "FutureLaunchError", "FutureError", "error", "condition"))
    stop(e)
  })
}

launch <- function(backend, future) {
  future[["backend"]] <- backend
  sending <- NULL
  on.exit(if (!is.null(sending)) drop_node(backend, sending))
  repeat {
    index <- free_node(backend)
    sending <- node <- backend[["workers"]][[index]]
    future[["node"]] <- index
    future[["nodeHasConnection"]] <- TRUE
    data <- internal("getFutureData", "future")(future, mc.cores = 1L)
    sent <- tryCatch(suppressWarnings(send_future(node, data)), error = identity)
    if (!inherits(sent, "error")) break
    if (node_open(node) && node_idle_alive(node)) stop(sent) # the data cannot be sent to any worker
    sending <- NULL
    drop_node(backend, node)
    # The worker may be lost because of what it was sent, such as data larger than its memory: count it as a loss.
    reason <- outcome_of(node)
    if (nzchar(reason) && !may_run_again(backend, future, node, reason)) {
      return(future)
    }
  }
  internal("FutureRegistry", "future")(backend[["reg"]], action = "add", future = future, earlySignal = FALSE)
  sending <- NULL
  tasks <- backend[["tasks"]]
  tasks[node$host] <- sum(tasks[node$host], 1L, na.rm = TRUE)
  backend[["tasks"]] <- tasks
  future[["state"]] <- "running"
  future
}

# One call clears the global environment and evaluates the future; stock cluster futures take three calls. A worker with
# the session's version of future uses its own compiled functions. Only a worker with another version is sent the
# session's functions (install.packages() may put a newer future into the user's library).
send_future <- function(node, data) {
  if (node$same_future) {
    send_call(node, run_by_name, list(data))
  } else {
    send_call(node, run_as_sent, list(internal("grmall", "future"), internal("evalFuture", "future"), data))
  }
}

run_by_name <- function(data) {
  future <- asNamespace("future")
  future$grmall()
  future$evalFuture(data)
}
environment(run_by_name) <- baseenv()

run_as_sent <- function(erase, evaluate, data) {
  erase()
  evaluate(data)
}
environment(run_as_sent) <- baseenv()

#' @exportS3Method future::validateFutureGlobals
validateFutureGlobals.KubernetesFutureBackend <- function(backend, future, ...) {
  tryCatch(NextMethod(), FutureError = function(e) {
    class(e) <- c("KubernetesGlobalsError", "KubernetesError", class(e))
    stop(e)
  })
}

#' @exportS3Method future::stopWorkers
stopWorkers.KubernetesFutureBackend <- function(backend, interrupt = TRUE, ...) {
  for (f in active_futures(backend)) {
    f[["state"]] <- "canceled"
    f[["result"]] <- future::FutureCanceledError("The plan was changed while this future was running", future = f)
  }
  internal("FutureRegistry", "future")(backend[["reg"]], action = "reset")
  cancel_release(backend)
  for (node in unclass(backend[["workers"]])) close_node(node)
  backend[["workers"]] <- as_cluster(list(), attr(backend[["workers"]], "name"))
  TRUE
}

#' @exportS3Method future::interruptFuture
interruptFuture.KubernetesFutureBackend <- function(backend, future, ...) {
  index <- future[["node"]]
  internal("FutureRegistry", "future")(backend[["reg"]], action = "remove", future = future, earlySignal = FALSE)
  future[["node"]] <- NA_integer_
  drop_nodes(backend, index)
  future[["state"]] <- "interrupted"
  future[["result"]] <- future::FutureCanceledError(
    "The future was canceled, and its worker's R ended",
    future = future
  )
  future
}

#' @exportS3Method future::nbrOfWorkers
nbrOfWorkers.KubernetesFutureBackend <- function(evaluator) {
  # An elastic plan returns its maximum, because map functions split their work into as many pieces.
  if (diff(evaluator[["range"]]) > 0L) evaluator[["range"]][2L] else max(1L, evaluator[["target"]])
}

#' @exportS3Method future::nbrOfFreeWorkers
nbrOfFreeWorkers.KubernetesFutureBackend <- function(evaluator, ...) {
  max(0L, future::nbrOfWorkers(evaluator) - length(active_futures(evaluator)))
}

#' @export
print.KubernetesFutureBackend <- function(x, ...) {
  range <- unique(x[["range"]])
  cat(sprintf(
    "Kubernetes workers: %s asked for, %d connected, %d in use; lost futures are run again at most %d times\n",
    paste(range, collapse = " to "), length(x[["workers"]]), length(active_futures(x)), x[["retries"]]
  ))
  invisible(x)
}
