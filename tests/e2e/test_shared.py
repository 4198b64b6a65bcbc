"""A release with a volume at /shared: futures of a session that works there run in the very folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Stack, another

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def sharing(stack: Stack, own_state: Path) -> Iterator[Stack]:
    """A stack with `sharedGiB`. The one node serves the volume."""
    with another(stack, own_state / "sharing", workers="2", schedulerCpu="0.1", sharedGiB="1") as other:
        other.up()
        yield other


def test_futures_of_a_session_in_shared_run_in_its_folder(sharing: Stack) -> None:
    code = """
        suppressMessages(library(future.kubernetes))
        said <- character()
        take <- function(m) said <<- c(said, conditionMessage(m))
        unlink("/shared/project", recursive = TRUE)
        dir.create("/shared/project/data", recursive = TRUE)
        setwd("/shared/project")
        writeLines("of the session", "data/a.txt")
        writeLines("hidden", ".hidden")
        plan(kubernetes, workers = 2)
        there <- value(future(list(getwd(), readLines("data/a.txt"), readLines(".hidden"), Sys.info()[["nodename"]])))
        stopifnot(identical(there[1:3], list("/shared/project", "of the session", "hidden")))
        stopifnot(there[[4]] != Sys.info()[["nodename"]])
        withCallingHandlers(
          value(future({ writeLines("of a future", "data/b.txt"); unlink("data/a.txt") })), message = take
        )
        stopifnot(identical(dir("data"), "b.txt"), readLines("data/b.txt") == "of a future", length(said) == 0L)
        both <- value(lapply(1:2, function(i) future({
          file.create(sprintf("here-%d", i))
          while (!file.exists(sprintf("here-%d", 3 - i))) Sys.sleep(0.05) # the other worker's
          Sys.info()[["nodename"]]
        })))
        stopifnot(both[[1]] != both[[2]])
        stream <- future.kubernetes:::stream_of(list(backend = plan("backend")))
        stopifnot(stream$object_bytes == 0, is.null(stream$files)) # nothing travelled
        dir.create("~/project")
        setwd("~/project")
        writeLines("a copy", "a.txt")
        copied <- value(future({ writeLines("x", "/shared/c.txt"); c(getwd(), readLines("a.txt")) }))
        stopifnot(identical(copied, c(getwd(), "a copy")), readLines("/shared/c.txt") == "x")
        stopifnot(stream$object_bytes > 0, length(stream$files$bundles) == 1L)
        plan(sequential)
        cat("GOOD")
    """
    assert sharing.rscript(code, 200).endswith("GOOD")
