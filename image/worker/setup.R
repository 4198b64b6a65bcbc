# The plan's setup, on a worker: runs once in an R, before its first future. What it assigns stays, in an environment of
# R's search path, since the global environment is emptied before each future.

session_setup <- function() {
  done <- NULL
  function(setup) {
    if (!length(setup) || identical(setup, done)) {
      return(invisible())
    }
    code <- unserialize(setup)
    place <- attach(NULL, name = "kubernetes:setup", warn.conflicts = FALSE)
    good <- FALSE
    on.exit(if (!good) detach("kubernetes:setup", character.only = TRUE))
    if (is.function(code)) code() else eval(code, place)
    good <- TRUE
    done <<- setup
  }
}
