# Packages under development: devtools::load_all() and pkgload::load_all() load a package that is in no library. The
# workers get it installed, from the same folder, once for each load_all().

development_library <- local({
  installed <- list()
  function() {
    loaded <- loadedNamespaces()
    marked <- function(name) exists(".__DEVTOOLS__", envir = .getNamespace(name), inherits = FALSE)
    found <- loaded[vapply(loaded, marked, NA)]
    library <- file.path(tempdir(), "kubernetes-development")
    for (name in found) {
      namespace <- .getNamespace(name)
      if (identical(installed[[name]], namespace)) next
      install_development(name, getNamespaceInfo(namespace, "path"), library)
      installed[[name]] <<- namespace
    }
    for (name in setdiff(names(installed), found)) {
      installed[[name]] <<- NULL
      unlink(file.path(library, name), recursive = TRUE)
    }
    if (length(found)) normalizePath(library)
  }
})

install_development <- function(name, folder, library) {
  message(sprintf("Installing the package '%s' of %s for the workers", name, folder))
  dir.create(library, showWarnings = FALSE)
  output <- suppressWarnings(system2(
    file.path(R.home("bin"), "R"),
    c("CMD", "INSTALL", "--no-docs", "--no-test-load", "-l", shQuote(library), shQuote(folder)),
    stdout = TRUE, stderr = TRUE
  ))
  if (!is.null(attr(output, "status"))) {
    stop(kubernetes_error("Package", sprintf(
      "The package '%s' of %s, which load_all() has loaded, cannot be installed for the workers:\n%s",
      name, folder, paste(utils::tail(output, 10L), collapse = "\n")
    ), class = "FutureError"))
  }
}
