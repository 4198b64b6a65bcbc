# Parts of the session that hold in its futures, as with multisession: environment variables that the session has
# set or read from ~/.Renviron, with them the time zone, the locale, and the working directory and the libraries where a
# worker has them, as it has those in /shared.

# Variables that mean something only where they are: of R, the IDE, the shell, the pod.
own_variables <- paste0(
  "^(_?R_|RSTUDIO|RS_|JPY_|JUPYTER|IPY|KUBERNETES_|FUTURE_KUBERNETES_|LD_|DYLD_|XDG_|SSH_|TERM|LESS|LS_COLORS|",
  "RSERVER_|",
  "(_|PWD|OLDPWD|SHLVL|HOME|USER|LOGNAME|SHELL|HOSTNAME|PATH|TMPDIR|TMP|TEMP|DISPLAY|COLUMNS|LINES|MAIL|LANGUAGE|",
  "POD_NAME|POD_IP|NODE_NAME)$)"
)

# Variables of the container, and those that R itself sets when it starts: with the same value they are no choice of
# the session.
given_variables <- local({
  given <- NULL
  function() {
    if (remote_session()) {
      return(given_elsewhere())
    }
    if (is.null(given)) {
      bytes <- tryCatch(suppressWarnings(readBin("/proc/1/environ", "raw", 1e6)), error = function(e) raw())
      bytes[bytes == as.raw(0L)] <- charToRaw("\n")
      lines <- strsplit(rawToChar(bytes), "\n", fixed = TRUE)[[1L]]
      renviron <- tryCatch(
        readLines(file.path(R.home("etc"), "Renviron"), warn = FALSE),
        error = function(e) character()
      )
      set_by_r <- sub("^([A-Za-z_]+)=.*", "\\1", grep("^[A-Za-z_]+=", renviron, value = TRUE))
      given <<- list(lines = lines, names = set_by_r)
    }
    given
  }
})

# On another machine: what was there when this package was loaded, except for what ~/.Renviron sets.
given_elsewhere <- function() {
  file <- Sys.getenv("R_ENVIRON_USER", "~/.Renviron")
  lines <- if (file.exists(file)) readLines(file, warn = FALSE) else character()
  assignment <- "^ *(export +)?([A-Za-z_][A-Za-z0-9_]*) *=.*"
  own <- sub(assignment, "\\2", grep(assignment, lines, value = TRUE))
  before <- at_load$environment[setdiff(names(at_load$environment), own)]
  list(lines = paste(names(before), before, sep = "="), names = character())
}

at_load <- new.env(parent = emptyenv())

# The session's own variables, its locale, folder and libraries. Most calls find what the last one found.
session_world <- local({
  all <- NULL
  env <- NULL
  function() {
    now <- Sys.getenv(names = TRUE)
    if (!identical(now, all)) {
      given <- given_variables()
      chosen <- !grepl(own_variables, names(now)) & !names(now) %in% given$names &
        !paste(names(now), now, sep = "=") %in% given$lines
      env <<- as.character(now[chosen])
      names(env) <<- names(now)[chosen]
      all <<- now
    }
    list(env = env, locale = Sys.getlocale(), wd = getwd(), libraries = session_libraries())
  }
})

# The same with the files of a plan's session, serialized.
world_bytes <- local({
  last <- NULL
  bytes <- NULL
  function(stream) {
    world <- c(session_world(), list(files = session_files(stream), setup = stream$setup))
    if (!identical(world, last)) {
      bytes <<- serialize(world, NULL, xdr = FALSE)
      last <<- world
    }
    bytes
  }
})

# Libraries: `paths`, all that R looks in; `own`, those of them that the image does not have; `image`, those that it
# has; and `at`, when a package was last put into or removed from an own one. Empty ones are left out. On another
# machine `own` has the folders of the packages themselves.
session_libraries <- local({
  last <- list(paths = NULL)
  function() {
    paths <- c(development_library(), .libPaths())
    at <- if (identical(paths, last$all)) as.numeric(file.mtime(last$candidates))
    if (!identical(paths, last$all) || !identical(at, last$at) || !identical(last$remote, remote_session())) {
      if (remote_session()) {
        last <<- list(
          all = paths, candidates = paths, at = as.numeric(file.mtime(paths)), remote = TRUE,
          world = list(remote = TRUE, own = remote_packages(), at = as.numeric(file.mtime(paths)))
        )
        return(last$world)
      }
      image <- normalizePath(c(.Library, .Library.site), mustWork = FALSE)
      candidates <- setdiff(paths, image)
      own <- candidates[lengths(lapply(candidates, list.files)) > 0L]
      last <<- list(
        all = paths, candidates = candidates, at = as.numeric(file.mtime(candidates)), remote = FALSE,
        world = list(paths = setdiff(paths, setdiff(candidates, own)), own = own, image = image)
      )
      last$world$at <<- last$at[candidates %in% own]
    }
    last$world
  }
})

# The broker reads the packages that workers look for; the session sends the libraries whenever they have changed.
tell_libraries <- function(stream) {
  libraries <- session_libraries()
  if (!identical(libraries, stream$libraries) && (length(libraries$own) || length(stream$libraries$own))) {
    lines <- if (stream$remote) {
      file <- file.info(file.path(libraries$own, "Meta", "package.rds"), extra_cols = FALSE)
      sprintf("package %.0f %.0f %s", as.numeric(file$mtime), file$size, libraries$own)
    } else {
      c(paste("image", libraries$image), paste("own", libraries$own)[seq_along(libraries$own)])
    }
    bytes <- charToRaw(paste(enc2utf8(lines), collapse = "\n"))
    say(stream, "libraries", length(bytes), body = bytes)
  }
  stream$libraries <- libraries
}
