"""R code that writes a small R package, for benchmarks and for tests on a cluster."""

from __future__ import annotations

WRITE_PACKAGE = """
write_package <- function(name, code, ..., folder = tempfile("source-"), version = "1.0", exports = "export(f)") {
  source <- file.path(folder, name)
  dir.create(file.path(source, "R"), recursive = TRUE, showWarnings = FALSE)
  writeLines(c(paste("Package:", name), paste("Version:", version), "Title: T", "Description: D.", "License: none",
               "Author: a", "Maintainer: a <a@example.org>", ...), file.path(source, "DESCRIPTION"))
  writeLines(exports, file.path(source, "NAMESPACE"))
  writeLines(code, file.path(source, "R", "code.R"))
  source
}
install_package <- function(...) install.packages(write_package(...), repos = NULL, type = "source", quiet = TRUE)
"""
"""Definitions for an R program. `...` of `write_package`: further lines of DESCRIPTION, such as `Imports: stats`."""
