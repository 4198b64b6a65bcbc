"""Software on top of future works on plan(kubernetes): other packages, the vignette, examples of the help pages."""

from __future__ import annotations

import re

import pytest

from common.paths import REPO
from tests.e2e.conftest import WORKERS, Stack

pytestmark = pytest.mark.timeout(180)

PACKAGE = REPO / "image" / "future.kubernetes"
TWO_WORKERS = """
suppressMessages({library(future.kubernetes); library(future.apply)})
plan(kubernetes, workers = 2)
pods <- workers()$pod
both <- function(where) length(unique(where)) == 2L && all(where %in% pods)
stopifnot(!Sys.info()[["nodename"]] %in% pods)
where <- function(i) { Sys.sleep(0.3); Sys.info()[["nodename"]] }
"""


def r(stack: Stack, code: str) -> str:
    return stack.rscript(TWO_WORKERS + code)


def test_future_apply_uses_each_worker_and_draws_other_plans_numbers(stack: Stack) -> None:
    code = """
        stopifnot(both(future_sapply(1:4, where)))
        stopifnot(identical(future_mapply(function(a, b) a + b, 1:3, 4:6), c(5L, 7L, 9L)))
        draw <- function() future_sapply(1:6, function(i) rnorm(1), future.seed = 42)
        there <- draw()
        plan(sequential)
        stopifnot(identical(there, draw()))
        cat("GOOD")
    """
    assert "GOOD" in r(stack, code)


def test_recipes_line_works_under_vanilla_r_of_callr_and_targets(stack: Stack) -> None:
    code = """
        library(future)
        plan(cluster, manual = TRUE, quiet = TRUE)
        cat("WORKERS", nbrOfWorkers(), value(future(Sys.info()[["nodename"]])))
    """
    # The recipe's line takes the workers that are free at that moment. Those of the test before return one by one, and
    # a laptop's plan of another module may rest meanwhile, which takes them away.
    free = f"future.kubernetes::scale_workers({WORKERS}); cat(length(parallelly::availableWorkers()))"
    stack.wait("every worker to be free", 60, lambda: stack.rscript(free) == str(WORKERS))
    scheduler = stack.scheduler()["metadata"]["name"]
    printed = stack.kubectl("exec", "-i", scheduler, "--", "Rscript", "--vanilla", "-", input=code)
    words = printed.split("WORKERS ")[1].split()
    assert words[0] == str(WORKERS)
    assert words[1] in {pod["metadata"]["name"] for pod in stack.pods("worker")}


def test_furrr_maps_on_the_workers(stack: Stack) -> None:
    code = """
        suppressMessages(library(furrr))
        stopifnot(both(future_map_chr(1:4, where)), identical(future_map_dbl(1:3, sqrt), sqrt(1:3)))
        there <- future_map(1:3, ~ rnorm(.x), .options = furrr_options(seed = 1))
        plan(sequential)
        stopifnot(identical(there, future_map(1:3, ~ rnorm(.x), .options = furrr_options(seed = 1))))
        cat("GOOD")
    """
    assert "GOOD" in r(stack, code)


def test_foreach_by_dofuture_runs_on_the_workers(stack: Stack) -> None:
    code = """
        if (!requireNamespace("doFuture", quietly = TRUE)) {
          cat("MISSING")
        } else {
          suppressMessages(library(doFuture))
          stopifnot(both(foreach(i = 1:4, .combine = c) %dofuture% where(i)))
          registerDoFuture()
          stopifnot(both(foreach(i = 1:4, .combine = c) %dopar% where(i)))
          cat("GOOD")
        }
    """
    printed = r(stack, code)
    if "MISSING" in printed:
        pytest.skip("no Debian package of doFuture exists, so that the image of this machine has none")
    assert "GOOD" in printed


def test_progress_of_futures_arrives_while_they_run(stack: Stack) -> None:
    code = """
        options(progressr.enable = TRUE)
        library(progressr)
        start <- Sys.time()
        came <- numeric()
        handlers(handler_progress <- make_progression_handler("clock", reporter = list(
          update = function(config, state, progression, ...) {
            if (progression$amount > 0) came <<- c(came, as.numeric(Sys.time() - start, units = "secs"))
          }
        ), interval = 0, enable = TRUE))
        slow <- function(xs) {
          p <- progressor(along = xs)
          future_sapply(xs, function(x) { Sys.sleep(1); p(); x }, future.scheduling = 1)
        }
        with_progress(done <- slow(1:8))
        took <- as.numeric(Sys.time() - start, units = "secs")
        stopifnot(identical(done, 1:8))
        cat("CAME", length(came), sum(came < took - 0.9), round(came, 1), "OF", took)
    """
    printed = r(stack, code)
    came, before_the_end = printed.split("CAME ")[1].split()[:2]
    assert came == "8"
    assert int(before_the_end) >= 4, f"steps are told as they are done, not at the end: {printed}"


def test_futures_open_connections_are_reported_and_checked_on_change(stack: Stack) -> None:
    code = """
        plan(kubernetes, workers = 1)
        exchange <- function(from, to) value(future(for (name in c("diff_connections", "diff_devices")) {
          scope <- environment(get(name, envir = asNamespace("future")))
          scope[[to]] <- scope[[from]]
          scope[["compare"]] <- if (to == "compare") scope[[from]] else function(...) stop("compared in vain")
        }))
        invisible(value(future(1)))
        exchange("compare", "kept")
        stopifnot(value(future(2)) == 2)
        exchange("kept", "compare")
        told <- function(future) tryCatch({ value(future); "nothing" }, warning = function(w) class(w)[1])
        cat(told(future({ file(nullfile(), "w"); 1 })), told(future({ grDevices::pdf(NULL); 1 })))
    """
    assert r(stack, code).split() == ["ConnectionMisuseFutureWarning", "DeviceMisuseFutureWarning"]


def test_plans_are_nested(stack: Stack) -> None:
    code = """
        inner <- function(i) {
          Sys.sleep(0.3)
          c(Sys.info()[["nodename"]], class(future::plan("backend"))[1],
            length(unique(unlist(future.apply::future_lapply(1:4, function(j) { Sys.sleep(0.3); Sys.getpid() })))))
        }
        told <- function(outer) {
          found <- future_sapply(1:2, inner)
          stopifnot(both(found[1, ]))
          cat(outer, found[2:3, 1], "\n")
        }
        plan(sequential)
        plan(list(tweak(kubernetes, workers = 2), sequential))
        told("SEQUENTIAL")
        plan(list(tweak(kubernetes, workers = 2), tweak(multisession, workers = I(2))))
        told("MULTISESSION")
    """
    printed = r(stack, code)
    assert "SEQUENTIAL SequentialFutureBackend 1" in printed
    assert "MULTISESSION MultisessionFutureBackend 2" in printed


def test_session_with_more_than_1024_open_files_has_futures(stack: Stack) -> None:
    code = """
        suppressMessages(library(future.kubernetes))
        plan(kubernetes, workers = 2)
        fs <- lapply(1:4, function(i) future(i))
        cat(unlist(value(fs)), length(list.files("/proc/self/fd")) > 1100)
    """
    opened = 'for i in $(seq 10 1120); do eval "exec $i</dev/null"; done'
    scheduler = stack.scheduler()["metadata"]["name"]
    command = f"ulimit -n 4096 && {{ {opened}; exec Rscript -e '{code}'; }}"
    assert stack.kubectl("exec", scheduler, "--", "bash", "-c", command) == "1 2 3 4 TRUE"


def test_the_vignettes_code_runs_as_it_stands(stack: Stack) -> None:
    text = (PACKAGE / "vignettes" / "future-kubernetes.Rmd").read_text()
    chunks = re.findall(r"^```\{r([^}\n]*)\}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    shown = [code for options, code in chunks if "include = FALSE" not in options]
    assert len(shown) == len(chunks) - 1, "the chunk that sets knitr up is the one that is not shown"
    printed = stack.rscript("\n".join(["options(echo = TRUE)", *shown, 'cat("TO", "THE END")']))
    assert "TO THE END" in printed
    assert "self-destruct was lost 1 time" in printed


def test_the_examples_of_the_help_pages_run(stack: Stack) -> None:
    pages = sorted(path.stem for path in (PACKAGE / "man").glob("*.Rd") if r"\examples{" in path.read_text())
    assert {"kubernetes", "scale_workers", "workers"} <= set(pages)
    names = ", ".join(f'"{page}"' for page in pages)
    code = f"""
        library(future.kubernetes)
        for (topic in c({names})) {{
          example(topic, package = "future.kubernetes", character.only = TRUE, ask = FALSE, run.dontrun = TRUE)
          cat("DONE", topic, "\n")
        }}
        scale_workers({WORKERS}) # the example of scale_workers() has left two
    """
    printed = stack.rscript(code)
    stack.wait("every worker to be back", 60, lambda: len(stack.pods("worker")) == WORKERS)
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("DONE ")] == pages
