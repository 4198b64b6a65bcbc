# Packages of the session's own libraries, on a worker: R looks for one, and it comes from the scheduler's pod.
#
# R finds packages by loadNamespace(), find.package() and utils::packageDescription(); all other functions call these.
# In this process each of them first calls fetch(). A package that nobody looks for does not travel.

session_packages <- function(ask) {
  folder <- Sys.getenv("FUTURE_KUBERNETES_LIBRARY")
  process <- Sys.getpid()
  known <- character() # folders of the packages in the session's libraries; NULL until asked for
  fetched <- character()
  remote <- FALSE # the session is on another machine, where the same path means another folder

  fetch <- function(package, ...) {
    # A forked child has no connection of its own.
    if ((is.null(known) || length(known)) && !is.null(package) && Sys.getpid() == process) {
      for (name in as.character(package)) if (!isNamespaceLoaded(name) && !name %in% fetched) fetch_one(name)
    }
  }
  fetch_one <- function(name) {
    if (is.null(known)) known <<- strsplit(ask(""), "\n", fixed = TRUE)[[1L]]
    here <- known[basename(known) == name & (remote | !dir.exists(dirname(known)))]
    if (length(here) == 0L) {
      return(invisible())
    }
    fetched <<- c(fetched, name)
    if (dir.exists(file.path(folder, name))) {
      return(invisible()) # for an R before this one
    }
    reason <- ask(here[1L])
    if (nzchar(reason)) {
      stop(structure(class = c("KubernetesPackageError", "KubernetesError", "error", "condition"), list(
        message = sprintf("The package '%s' of the session did not reach this worker: %s", name, reason), call = NULL
      )))
    }
  }

  patch <- function(name, where, code) {
    changed <- get(name, envir = where[[1L]], inherits = FALSE)
    body(changed) <- call("{", as.call(list(fetch, code)), body(changed))
    for (envir in where) {
      unlockBinding(name, envir)
      assign(name, changed, envir = envir)
      lockBinding(name, envir)
    }
  }
  patch("loadNamespace", list(baseenv()), quote(as.character(package)[[1L]])) # may be a name and a version
  patch("find.package", list(baseenv()), quote(package))
  attached <- if ("package:utils" %in% search()) as.environment("package:utils")
  patch("packageDescription", c(asNamespace("utils"), attached), quote(pkg))

  # The libraries of a session, where this pod has them, and in place of the others the one that fetch() fills.
  function(libraries) {
    remote <<- isTRUE(libraries$remote)
    if (remote) {
      known <<- if (length(libraries$own)) NULL else character()
      return(folder)
    }
    there <- dir.exists(libraries$paths)
    known <<- if (all(dir.exists(libraries$own))) character() else NULL
    unique(ifelse(there, libraries$paths, folder)[there | libraries$paths %in% libraries$own])
  }
}
