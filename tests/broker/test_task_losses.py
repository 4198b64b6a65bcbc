"""Task mode: tasks whose R or worker is lost run again, and what fails is blamed on what failed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from .conftest import Bed, wait_for
from .sessions import running


def test_r_that_dies_is_blamed_and_task_runs_again(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        assert plan.run(f"once {tmp_path / 'died'}") == "again"
        assert plan.told == ["again 1 w1 its R process was ended by signal 9"]
        assert bed.table()["w1"]["losses"] == 1


def test_task_that_always_ends_r_fails_and_names_each_loss(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan(retries=1) as plan:
        lost = json.loads(plan.result(plan.submit("print *** caught segfault ***\nleave 139"), "lost"))
        assert lost["pods"] == ["w1", "w1"]
        assert lost["reasons"] == ["its R process ended with exit status 139"] * 2
        assert lost["tail"].splitlines()[-1] == "*** caught segfault ***"
        assert plan.run("sleep 0") == "slept", "the session and the worker go on"


def test_end_of_r_is_noticed_though_its_child_lives(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan(retries=0) as plan:
        lost = json.loads(plan.result(plan.submit("fork\ndie"), "lost"))
        assert lost["reasons"] == ["its R process was ended by signal 9"]


def test_a_worker_that_is_told_to_go_finishes_its_task(bed: Bed, tmp_path: Path) -> None:
    process = bed.worker("w1")
    go = tmp_path / "go"
    with bed.plan() as plan:
        plan.submit(f"until {go}")
        plan.submit("sleep 0")
        wait_for(lambda: running(bed))
        process.end(signal.SIGTERM)
        wait_for(lambda: bed.state("w1") == "draining")
        go.touch()
        assert plan.result(1) == "there\n"
        assert process.wait() == 0
        bed.worker("w2")
        assert plan.result(2) == "slept\n"
        assert plan.told == []


def test_worker_that_left_before_its_task_ended_costs_no_retry(bed: Bed, tmp_path: Path) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    with bed.plan(retries=0) as plan:
        plan.submit(f"touch {begun}\nuntil {go}")
        for pod in ("w1", "w2", "w3"):
            process = bed.start_worker(pod)
            wait_for(begun.exists)
            begun.unlink()
            process.end(signal.SIGTERM)
            wait_for(lambda pod=pod: bed.state(pod) == "draining")  # type: ignore[misc]
            process.end(signal.SIGKILL)
            words, _ = plan.hear()
            assert " ".join(words) == f"again 1 {pod} its pod was draining, and its grace period was over"
        go.touch()
        bed.start_worker("w4")
        assert plan.result(1) == "touched\nthere\n"


def test_killed_worker_is_lost_and_its_task_runs_elsewhere(bed: Bed, tmp_path: Path) -> None:
    process = bed.worker("w1")
    go = tmp_path / "go"
    with bed.plan() as plan:
        plan.submit(f"until {go}")
        wait_for(lambda: running(bed))
        bed.worker("w2")
        process.end(signal.SIGKILL)
        wait_for(lambda: "w2" in running(bed))
        go.touch()
        assert plan.result(1) == "there\n"
        assert plan.told[0].startswith("again 1 w1 its connection ended")
