"""Workers are lost: what an R user sees of it on a real cluster.

Times that R users are promised are printed, and bound by what a noisy machine takes.
"""

from __future__ import annotations

import time

import pytest

from common.patience import patience
from tests.e2e.conftest import Stack
from tests.e2e.faults import Program, evict, in_network_of, name_of, process_of, r, three_ready

pytestmark = pytest.mark.timeout(300)


def test_silent_network_is_noticed_and_disturbs_no_other_future(faulty: Stack) -> None:
    three_ready(faulty)
    program = Program(
        faulty,
        """
        plan(kubernetes, workers = 3)
        job <- function(seconds) {
          started <- Sys.time()
          Sys.sleep(seconds)
          list(pod = Sys.info()[["nodename"]], started = started)
        }
        fs <- list(future(job(12), label = "first"), future(job(28)))
        tell("victim", pod_of("first"))
        noting(vs <- value(fs))
        tell("noticed", sprintf("%.2f", lost$at[1]), vs[[1]]$pod, lost$message[1])
        stopifnot(length(lost$at) == 1L, as.numeric(vs[[2]]$started) < lost$at[1])
        for (i in 1:120) if (nrow(workers()) == 3L) break else { Sys.sleep(0.5); value(future(1)) }
        cat("PODS", workers()$pod)
        """,
    )
    victim = program.told("victim")
    cut = time.time()
    in_network_of(faulty, victim, "ip", "link", "set", "eth0", "down")
    at, again, said = program.told("noticed", 90).split(" ", 2)
    faulty.kubectl("delete", "pod", victim, "--grace-period=0", "--force", "--wait=false")
    print(f"a silent network was noticed after {float(at) - cut:.1f} s: {said}")
    assert float(at) - cut < patience(20), "15 s are promised; a noisy machine may add to it"
    assert again != victim
    assert "fell silent" in said
    pods = program.printed().split("PODS ")[1].split()
    assert len(pods) == 3
    assert victim not in pods


def test_drained_worker_finishes_or_returns_its_future_before_replacement(faulty: Stack) -> None:
    three_ready(faulty)
    program = Program(
        faulty,
        """
        plan(kubernetes, workers = 2, retries = 0) # what a drain ends does not count
        end <- Sys.time() + 14
        short <- future({ Sys.sleep(7); Sys.info()[["nodename"]] }, label = "short")
        long <- future(
          { Sys.sleep(max(0, as.numeric(end - Sys.time(), units = "secs"))); Sys.info()[["nodename"]] },
          label = "long"
        )
        tell("busy", pod_of("short"), pod_of("long"))
        noting(vs <- value(list(short, long)))
        stopifnot(length(lost$message) == 1L)
        cat("DONE", unlist(vs), lost$message)
        """,
    )
    short, long = program.told("busy").split()
    evict(faulty, short)
    evict(faulty, long, grace_seconds=3)
    finished, again, said = program.printed().split("DONE ")[1].split(" ", 2)
    assert finished == short
    assert again not in (short, long)
    assert f"Worker {long} was lost" in said
    assert "was draining" in said
    three_ready(faulty)
    assert not {short, long} & {name_of(pod) for pod in faulty.pods("worker")}


def test_a_killed_workers_future_is_done_again_soon(faulty: Stack) -> None:
    three_ready(faulty)
    program = Program(
        faulty,
        """
        plan(kubernetes, workers = 2)
        # Three seconds, once it is run again; until then long enough to be found and killed.
        again_from <- Sys.time() + 5
        f <- future({ Sys.sleep(if (Sys.time() < again_from) 60 else 3); Sys.info()[["nodename"]] }, label = "killed")
        tell("victim", pod_of("killed"))
        noting(again <- value(f))
        tell("done", sprintf("%.2f", as.numeric(Sys.time())), again, lost$message)
        """,
    )
    victim = program.told("victim")
    process = process_of(faulty, victim)
    time.sleep(6)
    killed = time.time()
    faulty.node.run("sh", "-c", f"kill -9 {process}")
    at, again, said = program.told("done", 60).split(" ", 2)
    program.printed()
    print(f"a killed worker's future of 3 s was done again after {float(at) - killed:.1f} s")
    assert again != victim
    assert "its container ended with exit status 137" in said
    assert float(at) - killed < 12, "5 s and its own 3 s are promised; a noisy machine may add to it"


def test_future_that_loses_every_worker_fails_with_each_cause(faulty: Stack) -> None:
    printed = r(
        faulty,
        """
        plan(kubernetes, workers = 2, retries = 1)
        f <- future({ tools::pskill(Sys.getpid(), 9); Sys.sleep(9) }, label = "doomed")
        e <- tryCatch(value(f), error = identity)
        stopifnot(inherits(e, "KubernetesWorkerLostError"), value(future(1)) == 1)
        cat("SAID", conditionMessage(e))
        """,
    )
    said = printed.split("SAID ")[1]
    assert "future doomed was lost 2 times" in said
    assert said.count("signal 9") == 2
