# What of the session holds in its futures, as it does with multisession: environment variables that the session has
# set or read from ~/.Renviron, with them the time zone, the locale, and the working directory and the libraries where a
# worker has them, as it has those in /shared.

# Variables that mean something only where they are: of R, the IDE, the shell, the pod.
own_variables <- paste0(
  "^(_?R_|RSTUDIO|RS_|JPY_|JUPYTER|IPY|KUBERNETES_|FUTURE_KUBERNETES_|LD_|DYLD_|XDG_|SSH_|TERM|LESS|LS_COLORS|",
  "(_|PWD|OLDPWD|SHLVL|HOME|USER|LOGNAME|SHELL|HOSTNAME|PATH|TMPDIR|TMP|TEMP|DISPLAY|COLUMNS|LINES|MAIL|LANGUAGE|",
  "POD_NAME|POD_IP|NODE_NAME)$)"
)

# Variables of the container, and those that R itself sets when it starts: with the same value they are no choice of
# the session.
given_variables <- local({
  given <- NULL
  function() {
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

# Named character vector of the session's own variables, its locale, folder and libraries. Most calls find what the last
# one found.
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
    list(env = env, locale = Sys.getlocale(), wd = getwd(), libraries = .libPaths())
  }
})
