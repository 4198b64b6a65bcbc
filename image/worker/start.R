# The program of a worker's R: calls serve() of worker.R. With the argument COMPILE, as at the image's build, it
# compiles that and the files beside it into worker.rds instead.
#
# Otherwise each worker's R would compile R's own loadNamespace(), which packages.R changes, and these functions while
# its first futures wait: 200 ms of CPU for the first one, and 30 for the second. R also takes 25 ms to read worker.R as
# the program of its command line, which parse() does in one.
local({
  here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)[1L]))
  file <- file.path(here, "worker.rds")
  program <- if (file.exists(file)) readRDS(file)
  # An image that was made from this one may have another R, whose functions are others.
  if (!identical(program$made_by, R.version.string)) {
    # Not below the global environment: there a future's own `serialize` would be found.
    program <- new.env(parent = baseenv())
    for (part in c("packages.R", "files.R", "setup.R", "worker.R")) sys.source(file.path(here, part), program)
    program$changed <- program$changed_functions()
  }
  if (identical(commandArgs(TRUE), "COMPILE")) {
    program$changed <- lapply(program$changed, compiler::cmpfun)
    for (name in ls(program)) if (is.function(program[[name]])) program[[name]] <- compiler::cmpfun(program[[name]])
    program$made_by <- R.version.string
    saveRDS(program, file, compress = FALSE)
  } else {
    program$serve(program$changed)
  }
})
