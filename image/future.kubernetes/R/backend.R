#' Run futures on the workers of this Kubernetes release
#'
#' Use it only in [future::plan()]. The plan requests the workers that it lacks and waits for them with a progress line.
#' From then on `future()` returns at once: the future waits in the scheduler's pod until a worker is free, and its
#' result waits there until it is collected.
#'
#' @section A number, or two:
#' `workers = 40` is a fixed number. `workers = c(2, 40)` starts with two, and asks for as many as there are futures, up
#' to 40. Workers that were not needed for half a minute are released, down to two, also while R is at its prompt. After
#' `idleMinutes` of the stack without a future all workers go; the next future brings them back.
#'
#' @section Several sessions:
#' Workers belong to the release. The futures of all sessions share them evenly, and each session has at most as many at
#' once as its plan says. A worker starts a fresh R before it works for another session or another plan.
#'
#' @section What a future sees of the session:
#' As with multisession, and more, since its worker is another machine:
#'
#' \tabular{ll}{
#' \strong{of the session} \tab \strong{in a future} \cr
#' globals, attached packages, random numbers \tab as with multisession \cr
#' a package installed, or loaded with `load_all()` \tab yes, when something looks for it; a new version too \cr
#' a file of the working directory \tab yes, at the same path, up to 100 MB \cr
#' a file that a future writes there \tab stays on its worker \cr
#' environment variables, time zone, locale \tab yes \cr
#' a connection, as to a database \tab no; `setup` opens it there \cr
#' hidden files, devices and pipes, folders elsewhere \tab no; `/shared` is the same folder everywhere
#' }
#'
#' In detail:
#'
#' \itemize{
#' \item its globals and the packages that it attaches;
#' \item packages of the session's own libraries ([.libPaths()]), as `install.packages()` and renv fill them. A worker
#' gets a package when something looks for it, and the new version when it was installed again. A package that
#' `devtools::load_all()` has loaded is installed for the workers after each `load_all()`, with what it exports. A
#' child of a future, as of `parallel::mclapply()` or `callr::r()`, has the packages that the future loaded before;
#' \item the files of the working directory, as they were when the future was made, at the same path. What a future
#' writes there stays on its worker. Not sent are hidden files, renv's and packrat's libraries, `node_modules`, devices,
#' pipes, sockets, what `.futureignore` names (patterns, one a line, such as `*.log` or `data/raw`), and above
#' `options(future.kubernetes.filesMB = 100)` the largest files; 0 sends none, and above 10,000 files none are sent. A
#' message names what is left out. Above 200 files a change to one of them may arrive a second late. Folders in
#' `/shared` are the same ones on the workers;
#' \item environment variables that the session has set or read from `~/.Renviron`, with them the time zone `TZ`, and
#' the locale;
#' \item what `setup` has done on its worker.
#' }
#'
#' Not seen are connections, files elsewhere in the scheduler's pod, and what other futures have left in the global
#' environment.
#'
#' @section Faults:
#' When a worker is lost, its future is run again on another worker, with the same random numbers when `seed = TRUE`. If
#' the future can have caused the loss (its R crashed or ran out of memory), this is done `retries` times, and then the
#' future ends with a `KubernetesWorkerLostError`, see [kubernetes_conditions]. Pods that are deleted or drained, and
#' nodes that go, do not count. A future that changes something outside of R may therefore do so more than once.
#'
#' @param workers number of workers, or the minimum and the maximum number. By default the number that the release is
#'   set to have now; after it was scaled to 0, the number that it was deployed with.
#' @param retries how often a future is run again after a loss of its worker that it can have caused.
#' @param wait maximum number of seconds to wait for workers. A problem that waiting does not cure (an image that cannot
#'   be pulled, no node that fits) ends the wait within seconds.
#' @param setup code that runs once in each R of a worker before its first future, also on workers that come later:
#'   `quote(\{ ... \})`, or a function without arguments. What the code assigns is visible to the futures. If it fails,
#'   futures end with a `KubernetesSetupError` that has its message.
#' @param cluster on a machine outside of the cluster, the release whose workers are to be used: the name of a stack, or
#'   a list with `release`, `namespace`, `context` and `kubeconfig`, see [kubernetes_cluster].
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
                       interrupts = TRUE, setup = NULL, cluster = NULL) {
  stop("future.kubernetes::kubernetes() is not called directly: use plan(kubernetes)")
}

#' @rdname kubernetes
#' @export
KubernetesFutureBackend <- function(workers = NULL, retries = 2L, wait = 600, gc = FALSE, earlySignal = FALSE,
                                    interrupts = TRUE, setup = NULL, cluster = NULL, ...) {
  made <- FALSE
  stream <- NULL
  on.exit(if (!made) {
    if (!is.null(stream)) close_stream(stream, "abandon")
    mark_failed_plan()
  })
  use_cluster(cluster)
  if (is.function(workers)) workers <- workers()
  range <- range(check_workers(if (is.null(workers)) default_workers() else workers))
  if (!is.numeric(retries) || length(retries) != 1L || is.na(retries) || retries < 0) {
    stop(kubernetes_error("Workers", "retries is ", deparse(retries), "; it is a whole number of at least 0"))
  }
  setup <- check_setup(setup)
  stream <- open_stream(range, as.integer(retries), setup)
  if (stream$maximum < range[2L]) {
    message(sprintf(
      "This release allows %d workers: the plan grows to that, not to %d. For more, raise 'maxWorkers' of the stack",
      stream$maximum, range[2L]
    ))
    range[2L] <- stream$range[2L] <- stream$maximum
  }
  await_plan(range[1L], wait)
  backend <- future::MultiprocessFutureBackend(
    workers = range[2L], reg = paste0("kubernetes-", stream$key), gc = gc, earlySignal = earlySignal,
    interrupts = interrupts, ...
  )
  backend[["stream"]] <- stream
  backend[["range"]] <- range
  backend[["retries"]] <- stream$retries
  backend[["wait"]] <- wait
  backend[["setup"]] <- setup
  backend[["cluster"]] <- cluster
  backend[["futureClasses"]] <- c("KubernetesFuture", backend[["futureClasses"]])
  made <- TRUE
  structure(backend, class = c("KubernetesFutureBackend", class(backend)))
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
  wanted <- tryCatch(kubernetes_status()$wanted, KubernetesError = function(e) connected_workers()$connected)
  if (wanted > 0L) wanted else max(1L, setting("workers"), na.rm = TRUE)
}

#' @exportS3Method future::launchFuture
launchFuture.KubernetesFutureBackend <- function(backend, future, ...) {
  future[["backend"]] <- backend
  # An error of launchFuture() loses its class: future replaces it by one of its own. As the future's result it reaches
  # value() as it is.
  tryCatch(launch(backend, future), KubernetesError = function(e) {
    own <- setdiff(class(e), c("error", "condition"))
    class(e) <- unique(c(own, "FutureLaunchError", "FutureError", "error", "condition"))
    future[["state"]] <- "failed"
    future[["result"]] <- e
  })
  future
}

launch <- function(backend, future) {
  stream <- backend[["stream"]]
  if (is.null(stream$con) && stream$pid == Sys.getpid()) {
    # A plan that was left and is taken up again: old <- plan(sequential); plan(old).
    use_cluster(backend[["cluster"]])
    stream <- backend[["stream"]] <- open_stream(backend[["range"]], backend[["retries"]], backend[["setup"]])
  }
  submit(usable_stream(stream), future)
  future[["state"]] <- "running"
  counters <- backend[["counters"]]
  counters["launched"] <- counters["launched"] + 1L
  backend[["counters"]] <- counters
}

#' @exportS3Method future::validateFutureGlobals
validateFutureGlobals.KubernetesFutureBackend <- function(backend, future, ...) {
  tryCatch(NextMethod(), FutureError = function(e) {
    class(e) <- c("KubernetesGlobalsError", "KubernetesError", class(e))
    stop(e)
  })
}

#' @exportS3Method future::stopWorkers
stopWorkers.KubernetesFutureBackend <- function(backend, interrupt = TRUE, ...) {
  stream <- backend[["stream"]]
  if (!is.null(stream)) {
    if (stream$pid == Sys.getpid()) {
      for (f in active_futures(backend)) {
        f[["state"]] <- "canceled"
        f[["result"]] <- future::FutureCanceledError("The plan was changed while this future was running", future = f)
      }
    }
    close_stream(stream)
  }
  TRUE
}

#' @exportS3Method future::interruptFuture
interruptFuture.KubernetesFutureBackend <- function(backend, future, ...) {
  stream <- usable_stream(backend[["stream"]])
  if (!is.null(stream$futures[[as.character(future[["task"]])]])) {
    forget_future(stream, future)
    try(suppressWarnings(say(stream, "cancel", future[["task"]])), silent = TRUE)
  }
  future[["state"]] <- "interrupted"
  future[["result"]] <- future::FutureCanceledError(
    "The future was canceled, and the R that ran it ended",
    future = future
  )
  future
}

active_futures <- function(backend) as.list(backend[["stream"]]$futures)

#' @exportS3Method future::nbrOfWorkers
nbrOfWorkers.KubernetesFutureBackend <- function(evaluator) {
  # An elastic plan returns its maximum, because map functions split their work into as many pieces.
  evaluator[["range"]][2L]
}

#' @exportS3Method future::nbrOfFreeWorkers
nbrOfFreeWorkers.KubernetesFutureBackend <- function(evaluator, ...) {
  stream <- evaluator[["stream"]]
  if (!is.null(stream$con)) hear(stream)
  max(0L, evaluator[["range"]][2L] - stream$active)
}

#' @export
print.KubernetesFutureBackend <- function(x, ...) {
  cat(sprintf(
    "Kubernetes workers: %s asked for; %d futures wait or run; lost futures are run again at most %d times\n",
    paste(unique(x[["range"]]), collapse = " to "), x[["stream"]]$active, x[["retries"]]
  ))
  invisible(x)
}
