# The program of a worker's R, from its start until a session's connection reaches it.

# Done before a session connects, because it takes time at its first use: half a second to load future, and some 20 ms
# for availableCores(), which plan() calls on every worker (0.4 s for 40 workers that share two cores).
invisible(try({
  loadNamespace("future")
  parallelly::availableCores()
}, silent = TRUE))

# future lists the open connections and devices before and after each future, and warns of one that was left open. It
# puts both lists into data frames even when they are the same, which takes a worker half of the time of a small future.
# In this process they are compared first. When they differ, future's own function runs; a future without these
# functions is not changed.
invisible(try(local({
  at_once_if_same <- function(compare) {
    force(compare)
    same <- NULL
    function(...) {
      two <- lapply(list(...), as.list) # R's list of devices is a pairlist
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
