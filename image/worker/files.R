# The files of the session's working directory, on a worker: bundles of pieces of files become a folder, see files.R of
# the R package. What futures write there is theirs, until R starts anew.

project_files <- function(read_object) {
  # An R before this one may have left its folder.
  note <- file.path(Sys.getenv("FUTURE_KUBERNETES_OBJECTS"), "project")
  place <- if (file.exists(note)) readLines(note)
  folder <- NULL
  applied <- character()
  dirs <- NULL
  names <- character()
  times <- NULL

  leave <- function() {
    if (!is.null(place)) unlink(c(place, note), recursive = TRUE)
    place <<- folder <<- dirs <<- NULL
    applied <<- character()
  }
  leave()

  # The session's path, if this pod has nothing there; so that full names of files hold as well.
  find_place <- function(path) {
    if (!file.exists(path) && dir.create(path, showWarnings = FALSE, recursive = TRUE)) {
      writeLines(path, note)
      return(path)
    }
    place <- file.path(tempfile("project-"), basename(path))
    dir.create(place, recursive = TRUE)
    place
  }
  apply_bundle <- function(bundle) {
    paths <- file.path(place, bundle$name)
    for (dir in unique(dirname(paths))) dir.create(dir, showWarnings = FALSE, recursive = TRUE)
    before <- ifelse(bundle$at == 0, 0, file.size(paths)) # a bundle has one piece of a file
    before[is.na(before)] <- 0
    for (i in seq_along(paths)) {
      file <- file(paths[i], if (bundle$at[i] == 0) "wb" else "ab")
      writeBin(bundle$bytes[[i]], file)
      close(file)
    }
    # R only warns of bytes that the disk has no room for.
    if (!identical(file.size(paths), before + lengths(bundle$bytes))) {
      stop("the disk of the worker's pod is full: no room for the files of ", folder)
    }
    Sys.chmod(paths, bundle$mode, use_umask = FALSE)
    Sys.setFileTime(paths, .POSIXct(bundle$mtime))
    unlink(file.path(place, bundle$removed))
  }

  list(
    leave = leave,
    # The folder in which a future runs.
    enter = function(files) {
      if (!identical(files$folder, folder) || !identical(applied, head(files$bundles, length(applied)))) {
        leave()
        place <<- find_place(files$folder)
        folder <<- files$folder
      }
      if (length(applied) < length(files$bundles)) {
        whole <- FALSE
        on.exit(if (!whole) leave()) # as with a full disk: half of a bundle must not be taken for it
        for (hash in setdiff(files$bundles, applied)) {
          suppressWarnings(apply_bundle(read_object(hash)))
          applied <<- c(applied, hash)
        }
        whole <- TRUE
        dirs <<- list.dirs(place)
        names <<- list.files(place, all.files = TRUE, recursive = TRUE)
        times <<- file.mtime(dirs)
      }
      place
    },
    # Names of files that a future has added, the first time that it is seen.
    written = function() {
      if (is.null(dirs) || identical(now <- file.mtime(dirs), times)) {
        return(character())
      }
      times <<- now
      setdiff(list.files(place, all.files = TRUE, recursive = TRUE), names)
    }
  )
}
