# The files of the session's working directory, on a worker: the agent has unpacked them (files.py), and a future runs
# in their folder. What futures write there stays until R ends, or the plan.

project_files <- function() {
  note <- file.path(Sys.getenv("FUTURE_KUBERNETES_OBJECTS"), "files")
  known <- NULL
  dirs <- NULL
  names <- character()
  times <- NULL

  list(
    leave = function() known <<- dirs <<- NULL,
    # The folder in which a future runs.
    enter = function(files) {
      said <- if (file.exists(note)) readLines(note, warn = FALSE) else "the disk of the worker's pod is full"
      if (!all(files$bundles %in% said[-(1:2)])) stop(said[1L], " (the files of ", files$folder, ")")
      if (!identical(said, known)) {
        known <<- said
        dirs <<- list.dirs(said[2L])
        names <<- list.files(said[2L], all.files = TRUE, recursive = TRUE)
        times <<- file.mtime(dirs)
      }
      said[2L]
    },
    # Names of files that a future has added, the first time that it is seen.
    written = function() {
      if (is.null(dirs) || identical(now <- file.mtime(dirs), times)) {
        return(character())
      }
      times <<- now
      setdiff(list.files(dirs[1L], all.files = TRUE, recursive = TRUE), names)
    }
  )
}
