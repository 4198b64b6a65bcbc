#' Futures on the workers of this Kubernetes release
#'
#' To be used in [future::plan()] alone. The plan asks for the workers that it lacks, waits for them with a line that
#' says what is still missing, and connects to all at once. The next plan, or the end of the session, gives them back.
#'
#' @section A number, or two:
#' `workers = 40` is a fixed number. `workers = c(2, 40)` starts with two; while futures wait for a worker the number is
#' doubled, up to 40, and workers that have had no future for half a minute are given back, down to two: also while R
#' waits for you at its prompt.
#' A worker that is lost is replaced as soon as Kubernetes has started another.
#'
#' @section Faults:
#' The future of a worker that is lost (its pod deleted, out of memory, its node gone) is run again on another, with the
#' same random numbers when `seed = TRUE`, at most `retries` times. Then it ends with a `KubernetesWorkerLostError`, see
#' [kubernetes_conditions]. So a future that changes something outside R may do so more than once.
#'
#' @param workers number of workers, or the smallest and the largest number. By default as many as the release is set
#'   to have now; after it was scaled to nothing, as many as it was deployed with.
#' @param retries how often a future whose worker was lost is run again.
#' @param wait seconds to wait for workers before giving up. What cannot be cured by waiting (an image that cannot be
#'   pulled, no node that fits) is told within seconds.
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
  nodes <- obtain(range[1L], wait)
  target <- attr(nodes, "wanted")
  attr(nodes, "wanted") <- NULL
  name <- sprintf("kubernetes-%d-%s", Sys.getpid(), nodes[[1L]]$attachment)
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

# plan() keeps a plan that could not be made, for futures to try again. Said once more it is "the same as before", and
# plan() would return as if all were well: a mark makes it another one.
mark_failed_plan <- function() {
  stack <- future::plan("list")
  if (!inherits(stack[[1L]], "kubernetes")) {
    return(invisible())
  }
  attr(stack[[1L]], "failed") <- Sys.time()
  future::plan(stack, .init = FALSE, .cleanup = FALSE)
}

clock <- function() proc.time()[["elapsed"]]

as_cluster <- function(nodes, name) {
  structure(nodes, class = c("RichSOCKcluster", "SOCKcluster", "cluster"), name = name)
}

default_workers <- function() {
  wanted <- tryCatch(kubernetes_status()$wanted, KubernetesError = function(e) {
    counts <- count_workers()
    counts$free + counts$mine
  })
  if (wanted > 0L) wanted else max(1L, setting("workers"), na.rm = TRUE)
}

# n workers, connected. Those that wait, or are about to be back from their last use, are taken without a question to
# Kubernetes; the rest is asked for and waited for.
obtain <- function(n, wait) {
  nodes <- list()
  on.exit(for (node in nodes) close_node(node))
  counts <- count_workers()
  # One that does not come back within 15 s has gone for good.
  if (counts$free >= n) nodes <- attach_nodes(n, wait = 15)
  if (length(nodes) < n) {
    n <- request(n, wait, length(nodes))
    nodes <- c(nodes, attach_nodes(n - length(nodes), wait = 15))
  }
  if (length(nodes) == 0L) {
    stop(kubernetes_error("Unavailable", "No worker could be connected: another R session may have taken them. Try again"))
  }
  if (length(nodes) < n) {
    message(sprintf("%d of %d workers are connected; the others join as they become free", length(nodes), n))
  }
  obtained <- structure(nodes, wanted = n)
  nodes <- list()
  obtained
}

# Ask Kubernetes for n workers, of which this session has some, and wait until the others are free. How many the plan can
# have, when that is fewer than n. Nothing stays asked for when this does not succeed.
request <- function(n, wait, connected) {
  others <- count_workers()$others
  before <- NULL
  on.exit(scale_back(before))
  most <- setting("maxWorkers")
  if (!is.na(most) && n <= most && n + others > most) {
    n <- max(1L, connected, as.integer(most) - others)
    message(sprintf(
      "%d workers are in use by another R session, and this release allows %d: this plan gets %d",
      others, as.integer(most), n
    ))
  }
  before <- wanted_workers()
  if (!is.null(before)) {
    if (before < n + others) ask("scale", n + others) else before <- NULL
  }
  await_workers(n, wait, connected)
  before <- NULL
  n
}

# How many workers the release is set to have; NULL where no Kubernetes is behind this broker: workers may still
# connect by themselves.
wanted_workers <- function() tryCatch(kubernetes_status()$wanted, KubernetesBrokerError = function(e) NULL)

# What was asked for is not waited for any more: by an error, or by Ctrl-C, which is not to wait for Kubernetes long.
scale_back <- function(before) if (!is.null(before)) try(ask("scale", before, timeout = 2L), silent = TRUE)

# Wait until there are n workers, of which so many are connected already and the others are free; tell what is waited for.
await_workers <- function(n, wait, connected = 0L) {
  line <- progress_line()
  on.exit(line$end())
  start <- clock()
  asked <- -Inf
  problem_since <- NULL
  fewest <- Inf
  text <- ""
  repeat {
    came <- connected + count_workers()$free
    if (came >= n) {
      return(invisible())
    }
    if (clock() - asked >= 1) {
      asked <- clock()
      status <- tryCatch(kubernetes_status(), KubernetesUnreachableError = function(e) {
        list(text = paste("the Kubernetes API does not answer:", conditionMessage(e)), problem = "", waiting = Inf)
      }, KubernetesBrokerError = function(e) list(text = "", problem = "", waiting = Inf))
      text <- status$text
      if (status$waiting < fewest) {
        # What was in the way is not any more: a refusal is told for an hour after a quota was raised.
        fewest <- status$waiting
        problem_since <- NULL
      }
      problem_since <- if (nzchar(status$problem)) c(problem_since, clock())[1L]
      # An autoscaler needs some seconds to say whether it adds a node; what an image lacks is known at once.
      silent <- startsWith(status$problem, "no node fits") && !grepl("autoscaler", status$problem, fixed = TRUE)
      patience <- if (silent) 30 else 3
      if (!is.null(problem_since) && clock() - problem_since > patience) {
        stop(kubernetes_error(
          "Unavailable", sprintf("%d workers were asked for, %d came. ", n, came), status$problem
        ))
      }
    }
    if (clock() - start > wait) {
      stop(kubernetes_error("Unavailable", sprintf(
        "%d workers were asked for, %d came within %.0f s. %s", n, came, wait, text
      )))
    }
    line$show(sprintf("%d workers: %d connected%s", n, came, if (nzchar(text)) paste0(", ", text) else ""))
    Sys.sleep(if (clock() - start < 2) 0.05 else 0.25)
  }
}

# One line that is written over on a terminal, and said again only when it changes elsewhere.
progress_line <- function() {
  said <- ""
  terminal <- isatty(stderr())
  start <- clock()
  list(
    show = function(text) {
      if (text == said || clock() - start < 1) {
        return()
      }
      said <<- text
      if (terminal) cat("\r", formatC(text, width = -100L), sep = "", file = stderr()) else message(text)
    },
    end = function() if (terminal && nzchar(said)) cat("\n", file = stderr())
  )
}

active_futures <- function(backend) internal("FutureRegistry", "future")(backend[["reg"]], action = "list", earlySignal = FALSE)

# Asked for several times a future, of all that run: without the dispatch of `[[`, it takes a fraction of the time.
used_nodes <- function(backend) {
  vapply(active_futures(backend), function(f) as.integer(.subset2(f, "node")), 0L)
}

attachments <- function(nodes) vapply(unclass(nodes), function(node) node$attachment, "")

# Take nodes out; the futures of the others follow theirs to its new place.
drop_nodes <- function(backend, index) {
  workers <- backend[["workers"]]
  keep <- setdiff(seq_along(workers), index)
  for (node in unclass(workers)[index]) close_node(node)
  for (f in active_futures(backend)) f[["node"]] <- match(f[["node"]], keep)
  backend[["workers"]] <- as_cluster(unclass(workers)[keep], attr(workers, "name"))
}

# A worker that has part of a call, or has sent part of an answer, is of no use: what comes next would be taken for the
# rest. Its R ends with the connection, and the next tick takes another.
drop_node <- function(backend, node) {
  ids <- attachments(backend[["workers"]])
  drop_nodes(backend, which(ids == node$attachment))
  backend[["ticked"]] <- -Inf
}

add_nodes <- function(backend, n) {
  workers <- backend[["workers"]]
  nodes <- attach_nodes(n)
  backend[["workers"]] <- as_cluster(c(unclass(workers), nodes), attr(workers, "name"))
  length(nodes)
}

# Once a second at most: let go those that are told to go, take in those that came, give back those that idle.
tick <- function(backend, now = clock()) {
  wake(backend)
  if (now - backend[["ticked"]] >= 1) {
    backend[["ticked"]] <- now
    # A broker that restarts has lost all workers: they come again within a second, and then futures run again.
    tryCatch(renew_nodes(backend, now), KubernetesBrokerError = function(e) NULL)
  }
  invisible()
}

renew_nodes <- function(backend, now) {
  free <- setdiff(seq_along(backend[["workers"]]), used_nodes(backend))
  ids <- attachments(backend[["workers"]])
  draining <- strsplit(ask("draining", Sys.getpid()), " ", fixed = TRUE)[[1L]]
  gone <- free[ids[free] %in% draining | !vapply(unclass(backend[["workers"]])[free], node_idle_alive, NA)]
  backend[["draining"]] <- draining
  since <- backend[["free_since"]][ids[free]]
  since[is.na(since)] <- now
  names(since) <- ids[free]
  backend[["free_since"]] <- since
  if (diff(backend[["range"]]) > 0L) {
    spare <- free[now - since > spare_after]
    spare <- utils::head(spare, max(0L, length(ids) - backend[["range"]][1L]))
    if (length(spare) > 0L) {
      gone <- union(gone, spare)
      backend[["target"]] <- max(backend[["range"]][1L], length(ids) - length(spare))
      try(tell("scale", backend[["target"]] + count_workers()$others), silent = TRUE)
    }
  }
  if (length(gone) > 0L) drop_nodes(backend, gone)
  missing <- backend[["target"]] - length(backend[["workers"]])
  if (missing > 0L) {
    available <- min(missing, count_workers()$free)
    if (available > 0L) add_nodes(backend, available)
  }
}

spare_after <- 30 # seconds

# Called when a future has ended. After the last one R may be at its prompt, where nothing of this package runs: the
# broker is told which workers an elastic plan can spare, and gives them back when no future has come in time.
rest <- function(backend) {
  if (diff(backend[["range"]]) == 0L || length(active_futures(backend)) > 0L || !is.null(backend[["resting"]])) {
    return(invisible())
  }
  ids <- attachments(backend[["workers"]])
  spare <- utils::tail(ids, max(0L, length(ids) - backend[["range"]][1L]))
  if (length(spare) == 0L) {
    return(invisible())
  }
  groups <- split(spare, (seq_along(spare) - 1L) %/% 100L) # a line has its limit
  lines <- vapply(groups, function(ids) paste(c("spare", spare_after, ids), collapse = " "), "")
  tryCatch({
    con <- dial(30L)
    backend[["resting"]] <- con
    writeLines(lines, con)
  }, error = function(e) NULL)
}

# The next future is here: what has been given back meanwhile is no longer of this plan, and comes again if futures queue.
wake <- function(backend) {
  con <- backend[["resting"]]
  if (is.null(con)) {
    return(invisible())
  }
  backend[["resting"]] <- NULL
  backend[["free_since"]] <- numeric() # they have waited for this future, and are not to be given back at its start
  on.exit(try(close(con), silent = TRUE))
  answer <- tryCatch(suppressWarnings({
    writeLines("keep", con)
    readLines(con, 1L)
  }), error = function(e) character())
  if (!identical(answer, "ok 0")) {
    drop_nodes(backend, which(!vapply(unclass(backend[["workers"]]), node_idle_alive, NA)))
    backend[["target"]] <- max(backend[["range"]][1L], length(backend[["workers"]]))
  }
}

# The next worker to use: one that is free and alive. Blocks until there is one.
free_node <- function(backend) {
  start <- grown <- clock()
  line <- progress_line()
  on.exit(line$end())
  repeat {
    tick(backend)
    workers <- unclass(backend[["workers"]])
    free <- seq_along(workers)
    free <- free[!free %in% used_nodes(backend)]
    if (length(backend[["draining"]]) > 0L) {
      ids <- attachments(workers[free])
      free <- free[!ids %in% backend[["draining"]]]
    }
    for (i in free) {
      if (node_idle_alive(workers[[i]])) {
        return(i)
      }
    }
    if (length(free) > 0L) {
      drop_nodes(backend, free)
      next
    }
    now <- clock()
    if (now - grown > 0.5 && backend[["target"]] < backend[["range"]][2L]) {
      grown <- now
      backend[["target"]] <- min(backend[["range"]][2L], max(1L, 2L * backend[["target"]]))
      try(tell("scale", backend[["target"]] + count_workers()$others), silent = TRUE)
    }
    if (length(workers) > 0L) {
      start <- now
      collect(backend, timeout = 0.25)
    } else {
      if (now - start > backend[["wait"]]) {
        stop(kubernetes_error("Unavailable", sprintf("All workers are gone, and none came back within %.0f s", now - start)))
      }
      line$show("All workers are gone; waiting for their replacements")
      Sys.sleep(0.1)
    }
  }
}

# Take in what workers have sent, of those that have sent something within `timeout` seconds.
collect <- function(backend, timeout) {
  futures <- active_futures(backend)
  if (length(futures) == 0L) {
    return(invisible())
  }
  workers <- unclass(backend[["workers"]])
  cons <- lapply(futures, function(f) workers[[.subset2(f, "node")]]$con)
  for (f in futures[socketSelect(cons, timeout = timeout)]) take_in(f)
  invisible()
}

#' @exportS3Method future::launchFuture
launchFuture.KubernetesFutureBackend <- function(backend, future, ...) {
  # future passes on its own errors as they are, and hides others in one that says "unexpected".
  withCallingHandlers(launch(backend, future), KubernetesError = function(e) {
    class(e) <- unique(c(setdiff(class(e), c("error", "condition")), "FutureLaunchError", "FutureError", "error", "condition"))
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
    # Lost by what it was sent, as by data larger than its memory: the next one would be lost as well.
    reason <- fate_of(node)
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

# The global environment is cleared in the same call as the future is evaluated in: stock cluster futures take three.
# A worker with the session's version of future is told to use its own functions, which are compiled; only another one
# (install.packages() has put a newer future into the user's library) is sent the session's.
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
  wake(backend)
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
  future[["result"]] <- future::FutureCanceledError("The future was canceled, and its worker's R ended", future = future)
  future
}

#' @exportS3Method future::nbrOfWorkers
nbrOfWorkers.KubernetesFutureBackend <- function(evaluator) {
  # An elastic plan says how many it can have: map functions cut their work into as many pieces.
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
