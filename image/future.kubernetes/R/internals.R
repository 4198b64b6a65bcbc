# The functions of future that it does not export and that this package needs. tests/testthat/test-internals.R says for
# each what to do when it is gone.

# Arguments of evalFuture() on the worker: expression, globals, packages, seed, what to capture, the plan of the worker.
future_data <- function(future) internal("getFutureData")(future, mc.cores = 1L)

# Signal errors and warnings of a resolved future at once where plan(earlySignal = TRUE) asks for it.
signal_early <- function(future) internal("signalEarly")(future)

# Signal those conditions of a result that are to be seen at once and were not yet.
signal_immediate <- function(future) internal("signalImmediateConditions")(future)

# Refuse a future of another R process, such as one that a forked child has inherited.
assert_owner <- function(future) internal("assertOwner")(future)

# future's own evaluator, to be sent with a task. NULL where the workers have the same one, in the image's library: a
# user's library may hold a newer future, and each version reads its own data.
evaluator_to_send <- local({
  found <- NULL
  function() {
    if (remote_session()) {
      same <- identical(target$about$packages$future, as.character(utils::packageVersion("future")))
      return(if (!same) internal("evalFuture"))
    }
    if (is.null(found)) {
      library <- dirname(getNamespaceInfo("future", "path"))
      common <- normalizePath(c(.Library, .Library.site), mustWork = FALSE)
      found <<- list(if (!normalizePath(library) %in% common) internal("evalFuture"))
    }
    found[[1L]]
  }
})

# Looked up at each call: this package follows the versions of future.
internal <- function(name) get(name, envir = asNamespace("future"), mode = "function", inherits = FALSE)
