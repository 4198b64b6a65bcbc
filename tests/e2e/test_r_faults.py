"""R is interrupted, its input is wrong, Kubernetes refuses: what an R user sees of it on a real cluster."""

from __future__ import annotations

import time

import pytest

from common.patience import patience
from tests.e2e.conftest import Stack
from tests.e2e.faults import Program, no_api, no_role, no_room, r, three_ready

pytestmark = pytest.mark.timeout(300)

OUTAGE_SECONDS = 60
"""Seconds without the Kubernetes API; a request times out after 5."""


def test_ctrl_c_ends_every_wait_and_leaves_nothing_half_done(faulty: Stack) -> None:
    three_ready(faulty)
    code = """
        # An API server that is too busy to answer is asked again.
        wanted_now <- function() {
          tryCatch(future.kubernetes:::kubernetes_status()$wanted, KubernetesUnreachableError = function(e) NA_integer_)
        }
        interrupted <- function(what, expr, after = value(future(6 * 7))) {
          unlink("/tmp/when")
          # Renamed into its place, so that it is never read half-written.
          system(sprintf("(sleep 2; date +%%s.%%N > /tmp/when.new; kill -INT %d; mv /tmp/when.new /tmp/when) &",
                         Sys.getpid()))
          how <- tryCatch({ force(expr); "returned" }, interrupt = function(e) "interrupted", error = conditionMessage)
          at <- as.numeric(Sys.time())
          while (!file.exists("/tmp/when")) Sys.sleep(0.05)
          took <- at - as.numeric(readLines("/tmp/when"))
          # R waits 2 s for the number to be set back; the broker does it also when Kubernetes takes longer.
          while (!(wanted <- wanted_now()) %in% 3L && Sys.time() < at + LIMIT) Sys.sleep(0.5)
          said <- sprintf("%s: %s after %.2f s, %d wanted,", what, how, took, wanted)
          cat(said, if (identical(after, 42)) "usable" else "broken", "\n")
        }
        interrupted("plan", plan(kubernetes, workers = 6), after = 42)
        # The same words again: future would take them for the plan that there is already.
        interrupted("same-plan", plan(kubernetes, workers = 6), after = {
          plan(kubernetes, workers = 3)
          value(future(6 * 7))
        })

        slow <- future({ Sys.sleep(5); 7 })
        interrupted("value", value(slow))
        stopifnot(value(slow) == 7)

        fs <- lapply(1:3, function(i) future(Sys.sleep(4)))
        interrupted("queue", value(future(1)))
        invisible(value(fs))

        big <- raw(2e8)
        interrupted("send", repeat future(length(big)))
        rm(big)
        invisible(gc())
        interrupted("receive", repeat value(future(raw(2e8))))

        interrupted("scale", scale_workers(6))
        stopifnot(nbrOfWorkers() == 3L)
        plan(sequential)

        held <- parallelly::makeClusterPSOCK(I(3), manual = TRUE, quiet = TRUE)
        plan(sequential)
        interrupted("article", plan(cluster, workers = I(1), manual = TRUE, quiet = TRUE), after = 42)
        parallel::stopCluster(held)

        plan(kubernetes, workers = 2)
        stopifnot(unlist(value(lapply(1:4, function(i) future(i)))) == 1:4, nbrOfWorkers() == 2L)
        cat("SESSION usable\n")
    """
    with no_room(faulty):
        printed = r(faulty, code.replace("LIMIT", str(patience(10))))
    print(printed)
    lines = dict(line.split(": ", 1) for line in printed.splitlines() if " wanted, " in line)
    assert set(lines) == {"plan", "same-plan", "value", "queue", "send", "receive", "scale", "article"}
    for what, line in lines.items():
        assert line.startswith("interrupted after "), (what, line)
        assert float(line.split()[2]) < patience(1.5), (what, line)
        assert "3 wanted, usable" in line, (what, line)
    assert "SESSION usable" in printed


def test_bad_input_has_its_own_condition_and_session_survives(faulty: Stack) -> None:
    three_ready(faulty)
    printed = r(
        faulty,
        """
        said <- function(what, expr) {
          e <- tryCatch({ force(expr); simpleError("nothing") }, error = identity)
          cat(what, class(e)[1], "|", conditionMessage(e), "\n")
        }
        for (bad in list(0, -1, NA, "four", 1e6)) said(paste0("workers=", bad), plan(kubernetes, workers = bad))
        said("once-more", plan(kubernetes, workers = 1e6))
        options(future.globals.maxSize = 1e6)
        plan(kubernetes, workers = 2, retries = 0)
        said("package", value(future(1, packages = "notThere")))
        big <- raw(2e6)
        said("large", value(future(length(big))))
        options(future.globals.maxSize = +Inf)
        plan(kubernetes, workers = 2, retries = 0, maxSizeOfObjects = +Inf)
        big <- raw(6e8)
        said("too-large-for-the-worker", value(future(length(big))))
        stopifnot(unlist(value(lapply(1:2, function(i) future(i)))) == 1:2)
        cat("SESSION usable")
        """,
    )
    assert "SESSION usable" in printed
    told = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in printed.splitlines() if " | " in line}
    for bad in ("0", "-1", "NA", "four"):
        assert told[f"workers={bad}"].startswith("KubernetesWorkersError | The number of workers is"), bad
    for what in ("workers=1e+06", "once-more"):
        assert told[what].startswith("KubernetesMaximumError | 1000000 workers were asked for; this release allows")
    assert told["package"].startswith("KubernetesPackageError | ")
    assert "notThere" in told["package"]
    assert "rPackages" in told["package"]
    assert told["large"].startswith("KubernetesGlobalsError | ")
    assert "big" in told["large"]
    assert told["too-large-for-the-worker"].startswith("KubernetesWorkerLostError | ")
    assert "out of memory" in told["too-large-for-the-worker"]


def test_plan_without_its_role_takes_only_the_workers_present(faulty: Stack) -> None:
    three_ready(faulty)
    code = """
        plan(kubernetes, workers = 2)
        e <- tryCatch(plan(kubernetes, workers = 5), error = identity)
        more <- tryCatch(scale_workers(4), error = identity)
        plan(kubernetes, workers = 3)
        cat("SAID", value(future(6 * 7)), class(e)[1], class(more)[1], conditionMessage(e))
    """
    with no_role(faulty):
        said = r(faulty, code).split("SAID ")[1]
    assert said.split()[:3] == ["42", "KubernetesPermissionError", "KubernetesPermissionError"]
    assert "Its Role is" in said
    assert faulty.replicas() == 3
    assert "MORE 4" in r(faulty, 'cat("MORE", scale_workers(4))')


def test_an_unreachable_api_is_reported_and_the_wait_resumes(faulty: Stack) -> None:
    three_ready(faulty)
    code = """
        said <- character()
        noted <- function(expr) withCallingHandlers(expr, message = function(m) said <<- c(said, conditionMessage(m)))
        tell("waiting", "now")
        noted(plan(kubernetes, workers = 5))
        stopifnot(nrow(workers()) == 5L, value(future(6 * 7)) == 42)
        cat("SAID", said)
    """
    other = """
        start <- Sys.time()
        e <- tryCatch(plan(kubernetes, workers = 6), error = identity)
        cat(class(e)[1], round(as.numeric(Sys.time() - start, units = "secs"), 1), conditionMessage(e), "\n")
        plan(kubernetes, workers = 2)
        cat("USABLE", value(future(6 * 7)))
    """
    with no_room(faulty):
        program = Program(faulty, code, 240)
        program.told("waiting")
        faulty.wait("two more workers to be asked for", 30, lambda: faulty.replicas() == 5)
        with no_api(faulty):
            cut = time.monotonic()
            meanwhile = faulty.rscript(f"library(future.kubernetes)\n{other}")
            time.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - cut)))
    print(meanwhile)
    assert meanwhile.startswith("KubernetesUnreachableError ")
    assert float(meanwhile.split()[1]) < patience(10)
    assert "USABLE 42" in meanwhile
    assert "the Kubernetes API does not answer" in program.printed().split("SAID ")[1]


def test_quota_and_full_node_are_named_and_request_is_withdrawn(faulty: Stack) -> None:
    three_ready(faulty)
    code = """
        said <- character()
        start <- Sys.time()
        after <- function() round(as.numeric(Sys.time() - start, units = "secs"), 1)
        e <- tryCatch(withCallingHandlers(plan(kubernetes, workers = 5), message = function(m) {
          said <<- c(said, paste(after(), conditionMessage(m)))
        }), KubernetesUnavailableError = identity)
        cat("ENDED", after(), conditionMessage(e), "\n")
        cat("SAID", said[grepl("none fits", said)][1])
    """
    with faulty.limited_to(4, "small"):
        quota = r(faulty, code)
    assert faulty.replicas() == 3
    with no_room(faulty):
        full = r(faulty, code)
    print(quota, full)
    assert float(quota.split("ENDED ")[1].split()[0]) < patience(20)
    assert "exceeded quota: small" in quota
    assert float(full.split("SAID ")[1].split()[0]) < patience(10), "the reason is in the live line at once"
    assert "unschedulable" in full.split("SAID ")[1]
    assert "no node fits" in full.split("ENDED ")[1]
    assert faulty.replicas() == 3
