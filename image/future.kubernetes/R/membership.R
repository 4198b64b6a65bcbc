# The workers of a plan over time: replaces lost ones, grows and shrinks an elastic plan, and picks the next one to use.

release_after <- 30 # seconds without a future

active_futures <- function(backend) {
  internal("FutureRegistry", "future")(backend[["reg"]], action = "list", earlySignal = FALSE)
}

# Called several times for each future and over all that run: skipping the dispatch of `[[` saves most of the time.
used_nodes <- function(backend) {
  vapply(active_futures(backend), function(f) as.integer(.subset2(f, "node")), 0L)
}

as_cluster <- function(nodes, name) {
  structure(nodes, class = c("RichSOCKcluster", "SOCKcluster", "cluster"), name = name)
}

# Remove nodes; the futures of the others follow theirs to its new index.
drop_nodes <- function(backend, index) {
  workers <- backend[["workers"]]
  keep <- setdiff(seq_along(workers), index)
  for (node in unclass(workers)[index]) close_node(node)
  for (f in active_futures(backend)) f[["node"]] <- match(f[["node"]], keep)
  backend[["workers"]] <- as_cluster(unclass(workers)[keep], attr(workers, "name"))
}

# Remove a worker that has received part of a call or sent part of an answer: R would take the next message for the
# rest. The worker's R ends with the connection, and the next tick takes another worker.
drop_node <- function(backend, node) {
  drop_nodes(backend, which(leases(backend[["workers"]]) == node$lease))
  backend[["ticked"]] <- -Inf
}

add_nodes <- function(backend, n) {
  workers <- backend[["workers"]]
  nodes <- attach_nodes(n)
  backend[["workers"]] <- as_cluster(c(unclass(workers), nodes), attr(workers, "name"))
  length(nodes)
}

# At most once a second: drop workers whose pod is being deleted, add new ones, release idle ones.
tick <- function(backend, now = clock()) {
  cancel_release(backend)
  if (now - backend[["ticked"]] >= 1) {
    backend[["ticked"]] <- now
    # A restarted broker has lost all workers. They reconnect within a second, and then futures run again.
    tryCatch(renew_nodes(backend, now), KubernetesBrokerError = function(e) NULL)
  }
  invisible()
}

renew_nodes <- function(backend, now) {
  free <- setdiff(seq_along(backend[["workers"]]), used_nodes(backend))
  ids <- leases(backend[["workers"]])
  draining <- strsplit(ask("draining", Sys.getpid()), " ", fixed = TRUE)[[1L]]
  backend[["draining"]] <- draining
  gone <- free[ids[free] %in% draining | !vapply(unclass(backend[["workers"]])[free], node_idle_alive, NA)]
  gone <- union(gone, surplus_nodes(backend, free, ids, now))
  if (length(gone) > 0L) drop_nodes(backend, gone)
  missing <- backend[["target"]] - length(backend[["workers"]])
  if (missing > 0L) {
    available <- min(missing, count_workers()$free)
    if (available > 0L) add_nodes(backend, available)
  }
}

# Workers of an elastic plan that have been free too long; the number of workers is lowered by them.
surplus_nodes <- function(backend, free, ids, now) {
  since <- backend[["free_since"]][ids[free]]
  since[is.na(since)] <- now
  names(since) <- ids[free]
  backend[["free_since"]] <- since
  if (diff(backend[["range"]]) == 0L) {
    return(integer())
  }
  surplus <- utils::head(free[now - since > release_after], max(0L, length(ids) - backend[["range"]][1L]))
  if (length(surplus) > 0L) {
    backend[["target"]] <- max(backend[["range"]][1L], length(ids) - length(surplus))
    try(tell("scale", backend[["target"]] + count_workers()$others), silent = TRUE)
  }
  surplus
}

# Called when a future has ended. R may be at its prompt after the last one, where no code of this package runs. So the
# broker is told which workers the elastic plan does not need, and reclaims them unless a future comes in time.
schedule_release <- function(backend) {
  elastic <- diff(backend[["range"]]) > 0L
  if (!elastic || length(active_futures(backend)) > 0L || !is.null(backend[["pending_release"]])) {
    return(invisible())
  }
  ids <- leases(backend[["workers"]])
  surplus <- utils::tail(ids, max(0L, length(ids) - backend[["range"]][1L]))
  if (length(surplus) == 0L) {
    return(invisible())
  }
  groups <- split(surplus, (seq_along(surplus) - 1L) %/% 100L) # the broker limits the length of a line
  lines <- vapply(groups, function(ids) paste(c("release", release_after, ids), collapse = " "), "")
  tryCatch(backend[["pending_release"]] <- request(lines, 30L), error = function(e) NULL)
  invisible()
}

# Called before the next future. Workers that the broker has reclaimed no longer belong to the plan; it grows again when
# futures queue.
cancel_release <- function(backend) {
  con <- backend[["pending_release"]]
  if (is.null(con)) {
    return(invisible())
  }
  backend[["pending_release"]] <- NULL
  backend[["free_since"]] <- numeric() # the wait for this future counts as use, else it would start with a release
  on.exit(try(close(con), silent = TRUE))
  answer <- tryCatch(suppressWarnings({
    writeLines("cancel-release", con)
    readLines(con, 1L)
  }), error = function(e) character())
  if (!identical(answer, "ok 0")) {
    drop_nodes(backend, which(!vapply(unclass(backend[["workers"]]), node_idle_alive, NA)))
    backend[["target"]] <- max(backend[["range"]][1L], length(backend[["workers"]]))
  }
}

# Index of the next worker to use: free and alive. Blocks until there is one.
free_node <- function(backend) {
  start <- grown <- clock()
  line <- progress_line()
  on.exit(line$end())
  repeat {
    tick(backend)
    workers <- unclass(backend[["workers"]])
    free <- usable_nodes(backend)
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
      collect_results(backend, timeout = 0.25)
    } else {
      if (now - start > backend[["wait"]]) {
        stop(kubernetes_error(
          "Unavailable", sprintf("All workers are gone, and none came back within %.0f s", now - start)
        ))
      }
      line$show("All workers are gone; waiting for their replacements")
      Sys.sleep(0.1)
    }
  }
}

# Workers without a future whose pod is not being deleted.
usable_nodes <- function(backend) {
  workers <- unclass(backend[["workers"]])
  free <- setdiff(seq_along(workers), used_nodes(backend))
  draining <- backend[["draining"]]
  if (length(draining) > 0L) free <- free[!leases(workers[free]) %in% draining]
  free
}

# Collect the results of futures whose workers have sent something within `timeout` seconds.
collect_results <- function(backend, timeout) {
  futures <- active_futures(backend)
  if (length(futures) == 0L) {
    return(invisible())
  }
  workers <- unclass(backend[["workers"]])
  cons <- lapply(futures, function(f) workers[[.subset2(f, "node")]]$con)
  for (f in futures[socketSelect(cons, timeout = timeout)]) collect_result(f)
  invisible()
}
