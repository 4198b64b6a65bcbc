# What a worker's R runs until the session's connection reaches it.

# What takes time at its first use is done before a session asks: half a second to load future, and some 20 ms for
# availableCores(), which plan() calls on every worker (0.4 s for 40 that share two cores).
invisible(try({
  loadNamespace("future")
  parallelly::availableCores()
}, silent = TRUE))

# future lists the open connections and devices before and after each future, to warn of one that was left open, and puts
# the two lists into data frames even where they are the same: half of the time that a small future takes its worker. In
# this process they are compared first. Where they differ, future does what it did; where it has no such functions,
# nothing is changed.
invisible(try(local({
  at_once_if_same <- function(compare) {
    force(compare)
    same <- NULL
    function(...) {
      two <- lapply(list(...), as.list) # R's own list of devices is a pairlist
      if (!identical(two[[1L]], two[[2L]])) {
        return(compare(...))
      }
      if (is.null(same)) same <<- list(compare(...))
      same[[1L]]
    }
  }
  future <- asNamespace("future")
  for (name in c("diff_connections", "diff_devices")) {
    if (exists(name, envir = future, mode = "function", inherits = FALSE)) {
      unlockBinding(name, future)
      assign(name, at_once_if_same(get(name, envir = future)), envir = future)
      lockBinding(name, future)
    }
  }
}), silent = TRUE))

parallel:::.workRSOCK()
