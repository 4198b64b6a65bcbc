"""Runs R on a real cluster, in a folder of its own below the home, with packages that it writes and installs."""

from __future__ import annotations

from bench.r_package import WRITE_PACKAGE
from tests.e2e.conftest import Stack

# A folder of its own for each test below the home, and packages that are written and installed here.
PRELUDE = f"""{WRITE_PACKAGE}
options(warn = 1)
suppressMessages(library(future.kubernetes))
folder <- file.path(path.expand("~"), basename(tempfile("world-")))
dir.create(folder)
setwd(folder)
install <- function(name, version, code, imports = character(), exports = "exportPattern('.')") {{
  install_package(name, code, sprintf("Imports: %s", imports), version = version,
                  exports = c(exports, sprintf("import(%s)", imports)))
}}
forget <- function(...) {{
  for (name in c(...)) if (isNamespaceLoaded(name)) unloadNamespace(name)
  suppressMessages(remove.packages(c(...)))
}}
messages <- character()
listening <- function(code) withCallingHandlers(code, message = function(m) {{
  messages <<- c(messages, conditionMessage(m))
  invokeRestart("muffleMessage")
}})
"""


CLEAN = 'plan(sequential); setwd("~"); unlink(folder, recursive = TRUE)\ncat("GOOD")'


def r(stack: Stack, code: str, timeout: float = 200) -> str:
    printed = stack.rscript(f"{PRELUDE}\n{code}\n{CLEAN}", timeout)
    assert "GOOD" in printed
    return printed
