# Packages of the session's own libraries, on a worker: R looks for one, and it comes from the scheduler's pod.
#
# R finds packages by loadNamespace(), find.package() and utils::packageDescription(); all other functions call these.
# In this process each of them first calls fetch(). A package that is not looked for does not travel. dyn.load() fails
# for compiled code of a package that came so, where the image lacks a library of the system.

# R's functions, changed. They find what they call by name: a function in the call itself would go into an error's
# traceback, and from there into the future's result, with all that this process holds.
changed_functions <- function() {
  change <- function(f, with) {
    body(f) <- with(body(f))
    f
  }
  before <- function(call) function(body) base::call("{", call, body)
  list(
    # `package` may be a name and a version.
    loadNamespace = change(loadNamespace, before(quote(
      getOption("future.kubernetes.packages")$fetch_to_load(as.character(package)[[1L]], lib.loc)
    ))),
    find.package = change(find.package, before(quote(getOption("future.kubernetes.packages")$fetch(package)))),
    packageDescription = change(utils::packageDescription, before(quote(
      getOption("future.kubernetes.packages")$fetch(pkg)
    ))),
    dyn.load = change(dyn.load, function(body) {
      bquote(tryCatch(.(body), error = function(e) getOption("future.kubernetes.packages")$explain(x, e)))
    })
  )
}

session_packages <- function(ask, changed) {
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
    if (!dir.exists(file.path(folder, name))) { # it may be there for an R before this one
      reason <- ask(here[1L])
      if (nzchar(reason)) fail("The package '%s' of the session did not reach this worker: %s", name, reason)
    }
    fetched <<- c(fetched, name)
  }
  fail <- function(...) {
    stop(structure(class = c("KubernetesPackageError", "KubernetesError", "error", "condition"), list(
      message = sprintf(...), call = NULL
    )))
  }
  fetch_to_load <- function(package, lib) {
    fetch(package)
    if (Sys.getpid() != process && (is.null(known) || package %in% basename(known)) && !isNamespaceLoaded(package) &&
          !any(dir.exists(file.path(c(lib, .libPaths()), package)))) {
      fail(paste(
        "The package '%s' is not on this worker, and a forked child, as of mclapply(), cannot get it from the session:",
        "call loadNamespace(\"%s\") in the future, before the fork"
      ), package, package)
    }
  }
  # System libraries that compiled code needs may be on the session's machine only.
  explain <- function(path, error) {
    if (!startsWith(path, paste0(folder, "/"))) stop(error)
    fail(paste(
      "The package '%s' of the session cannot be loaded on this worker: %s. Add the system's library to the image by",
      "'aptPackages' of the stack, or the package by 'rPackages', and run 'pulumi up'"
    ), strsplit(substring(path, nchar(folder) + 2L), "/", fixed = TRUE)[[1L]][1L], conditionMessage(error))
  }

  options(future.kubernetes.packages = list(fetch = fetch, fetch_to_load = fetch_to_load, explain = explain))
  put <- function(name, where) {
    for (envir in where) {
      unlockBinding(name, envir)
      assign(name, changed[[name]], envir = envir)
      lockBinding(name, envir)
    }
  }
  for (name in c("loadNamespace", "find.package", "dyn.load")) put(name, list(baseenv()))
  attached <- if ("package:utils" %in% search()) as.environment("package:utils")
  put("packageDescription", c(asNamespace("utils"), attached))

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
