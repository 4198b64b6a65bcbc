# Code that runs once in each R of a worker, before its first future: plan(kubernetes, setup = quote({ ... })).

# The setup as workers get it, serialized; NULL for none.
check_setup <- function(setup) {
  # plan() evaluates its arguments, so a bare block has run in this session by now, and only its value is left.
  for (call in as.list(sys.calls())) {
    code <- if (is.call(call)) call[["setup"]]
    if (is.call(code) && identical(code[[1L]], quote(`{`))) {
      stop(kubernetes_error(
        "Setup", "'setup' is a block, which plan() has run in this session and not on the workers: ",
        "write setup = quote({ ... }), or a function without arguments"
      ))
    }
  }
  if (is.null(setup)) {
    return(NULL)
  }
  if (!is.language(setup) && !(is.function(setup) && length(formals(args(setup))) == 0L)) {
    stop(kubernetes_error(
      "Setup", "'setup' is ", class(setup)[1L], "; it is quoted code, as in setup = quote({ library(DBI) }), ",
      "or a function without arguments"
    ))
  }
  serialize(setup, NULL, xdr = FALSE)
}

setup_error <- function(future, reason) {
  error <- future::FutureError(sprintf(
    "Future %s did not run: the plan's 'setup' failed on its worker: %s", label_of(future), reason
  ), future = future)
  class(error) <- unique(c("KubernetesSetupError", "KubernetesError", class(error)))
  error
}
