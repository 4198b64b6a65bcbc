"""The number of workers follows what all plans want together, and goes down again when they do not want it any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from image.broker.plans import Range

from .conftest import Bed, restarted, wait_for
from .kubernetes_api import Api


@pytest.fixture
def resting(bed: Bed, api: Api, tmp_path: Path) -> Bed:
    """A broker with an API whose elastic plans release workers after a second."""
    api.replicas = 0
    return restarted(bed, api, tmp_path, FUTURE_KUBERNETES_REST_SECONDS="1", FUTURE_KUBERNETES_IDLE_CHECK_SECONDS="0.1")


def test_elastic_range_rises_with_load_and_falls_in_time() -> None:
    wanted = Range(1, 8)
    levels = []
    for now, load in [(0, 0), (1, 5), (2, 60), (3, 0), (32, 3), (33, 0), (62, 0), (63, 0), (100, 1)]:
        wanted.update(load, now)
        levels.append(wanted.level)
    #                  0  1  2  3 32 33 62 63
    assert levels == [1, 5, 8, 8, 8, 3, 3, 1, 1], "33: three were needed in the half minute before"


def test_fixed_range_at_rest_wants_nothing_until_its_next_task() -> None:
    wanted = Range(4, 4)
    wanted.update(0, 1000)
    assert wanted.level == 4
    wanted.rest()
    wanted.update(0, 2000)
    assert wanted.level == 0
    wanted.wake()
    wanted.update(1, 2001)
    assert wanted.level == 4


def test_kubernetes_is_asked_for_all_plans_sum_within_the_maximum(resting: Bed, api: Api) -> None:
    with resting.plan(4):
        wait_for(lambda: api.asked == ["4"])
        with resting.plan(3):
            wait_for(lambda: api.asked == ["4", "7"])
            with resting.plan(5):
                wait_for(lambda: api.asked == ["4", "7", "10"])
                assert resting.ask("connected") == "ok 0 10 12"


def test_an_elastic_plan_wants_as_many_as_it_has_tasks(resting: Bed, api: Api) -> None:
    with resting.plan(6, minimum=1) as plan:
        wait_for(lambda: api.asked == ["1"])
        for _ in range(4):
            plan.submit("sleep 0")
        wait_for(lambda: api.asked[-1] == "4")
        for _ in range(40):
            plan.submit("sleep 0")
        wait_for(lambda: api.asked[-1] == "6")


def test_an_elastic_plan_gives_back_although_nobody_collects_its_results(resting: Bed, api: Api) -> None:
    with resting.plan(6, minimum=1) as plan:
        for _ in range(3):
            plan.submit("sleep 0")
        wait_for(lambda: api.asked[-1:] == ["3"])
        resting.worker("r-worker-a")
        wait_for(lambda: api.asked[-1] == "1")


@pytest.mark.parametrize("how", ["cancel", "die"])
def test_elastic_plan_gives_back_after_tasks_that_failed(resting: Bed, api: Api, how: str) -> None:
    with resting.plan(6, minimum=1, retries=0) as plan:
        for _ in range(3):
            plan.submit("sleep 600" if how == "cancel" else "die")
        wait_for(lambda: api.asked[-1:] == ["3"])
        if how == "cancel":
            for number in (1, 2, 3):
                plan.send(f"cancel {number}")
        else:
            resting.worker("r-worker-a")
        wait_for(lambda: api.asked[-1] == "1")


def test_what_an_elastic_session_wanted_goes_with_its_process(resting: Bed, api: Api) -> None:
    session = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    plan = resting.plan(6, minimum=1, pid=session.pid)
    for _ in range(3):
        plan.submit("sleep 600")
    wait_for(lambda: api.asked[-1:] == ["3"])
    session.kill()
    session.wait()
    plan.socket.close()
    wait_for(lambda: api.asked[-1] == "1")


def test_an_ended_elastic_plan_lowers_no_number_set_since(resting: Bed, api: Api) -> None:
    with resting.plan(6, minimum=1) as plan:
        for _ in range(3):
            plan.submit("sleep 600")
        wait_for(lambda: api.asked[-1:] == ["3"])
        plan.send("close")
    assert resting.ask("scale 2") == "ok 2"
    wait_for(lambda: api.replicas == 2)
    with pytest.raises(AssertionError):
        wait_for(lambda: api.replicas != 2, 2)


def test_plan_above_the_maximum_is_refused_and_range_is_cut(resting: Bed, api: Api) -> None:
    with resting.plan(11) as plan:
        assert plan.opened == "error above-maximum 11 workers were asked for; this release allows 0 to 10"
    with resting.plan(100, minimum=1) as plan:
        assert plan.opened.startswith("opened 10 ")
    assert "11" not in api.asked


def test_without_a_maximum_nothing_is_asked_for(resting: Bed, api: Api, tmp_path: Path) -> None:
    (tmp_path / "config" / "maxWorkers").unlink()
    with resting.plan(1) as plan:
        assert plan.opened == "error above-maximum 1 workers were asked for; this release allows 0 to 0"
    assert resting.ask("scale 1").startswith("error above-maximum")
    assert api.asked == []


def test_plan_that_never_began_leaves_the_number_as_it_was(resting: Bed, api: Api) -> None:
    api.replicas = 2
    plan = resting.plan(5)
    wait_for(lambda: api.asked == ["5"])
    plan.send("close abandon")
    wait_for(lambda: api.asked == ["5", "2"])


def test_plan_that_ends_during_the_request_leaves_the_number(resting: Bed, api: Api) -> None:
    api.replicas = 2
    api.answers.clear()
    plan = resting.plan(5)
    wait_for(lambda: api.asked == ["5"])
    plan.send("close abandon")
    wait_for(lambda: resting.ask("connected") == "ok 0 0 0")
    api.answers.set()
    wait_for(lambda: api.asked == ["5", "2"])


def test_a_request_that_kubernetes_refuses_is_told_and_made_again(resting: Bed, api: Api) -> None:
    api.status = 403
    with resting.plan(3):
        assert resting.ask("demand").startswith("error permission ")
        api.status = 200
        wait_for(lambda: api.asked == ["3"])


def test_scaling_by_a_session_changes_only_its_own_plan(resting: Bed, api: Api) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with resting.plan(2), resting.plan(3, pid=other.pid):
            wait_for(lambda: api.replicas == 5)
            assert resting.ask(f"scale 8 {os.getpid()}") == "ok 8"
            assert resting.ask("connected") == "ok 0 10 11"
            assert resting.ask(f"scale 1 {os.getpid()}") == "ok 3", "the other plan wants them"
            assert resting.ask("connected") == "ok 0 4 4"
    finally:
        other.kill()
        other.wait()


def test_idle_workers_go_and_the_next_task_brings_them_back(resting: Bed, api: Api, tmp_path: Path) -> None:
    with resting.plan(3) as plan:
        wait_for(lambda: api.asked == ["3"])
        (tmp_path / "config" / "idleMinutes").write_text("0.01")
        wait_for(lambda: api.replicas == 0)
        (tmp_path / "config" / "idleMinutes").write_text("0")
        assert resting.ask("connected") == "ok 0 0 0"
        plan.submit("sleep 0")
        wait_for(lambda: api.replicas == 3)
        told = "as all were released: no session has used a worker for 0.01 minutes (idleMinutes)"
        assert told in resting.ask("status")
        resting.worker("r-worker-a")
        assert "released" not in resting.ask("status")


def test_an_absent_laptop_holds_no_workers_until_its_next_future(resting: Bed, api: Api) -> None:
    plan = resting.plan(3, pid=-4711)
    wait_for(lambda: api.asked == ["3"])
    plan.socket.close()
    wait_for(lambda: api.asked == ["3", "0"])
    with resting.plan(3, pid=-4711, key=plan.key) as again:
        assert resting.ask("connected").split()[2] == "0"
        again.submit("sleep 0")
        wait_for(lambda: api.asked == ["3", "0", "3"])


def test_absent_laptop_keeps_workers_while_a_future_waits_or_runs(resting: Bed, api: Api) -> None:
    plan = resting.plan(2, pid=-4711)
    plan.submit("sleep 0")  # there is no worker to run it
    wait_for(lambda: api.asked == ["2"])
    plan.socket.close()
    with resting.plan(3, pid=-4712):
        assert resting.ask("connected").split()[2] == "5"
    wait_for(lambda: resting.ask("connected").split()[2] == "2")  # the second rests, and the first did not before it
