"""Task mode: tasks are queued, shared among sessions, run, cancelled and collected."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Bed, wait_for
from .r_session import PlanSession
from .sessions import gone, running


def test_a_task_runs_and_its_result_comes_back(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        assert plan.opened.split()[:2] == ["opened", "1"]
        first = plan.run("pid")
        assert plan.run("pid") == first, "one R for all tasks of a plan"
        assert bed.state("w1") == "idle", "free when its task has ended, whoever collects the result"
    with bed.plan() as other:
        assert other.run("pid") != first, "a fresh R for another plan"


def test_plan_that_closes_during_a_result_leaves_no_used_r(bed: Bed, tmp_path: Path) -> None:
    """The worker ignores the cancellation, since its result is there; its R has the plan's variables all the same."""
    bed.worker("w1")
    with bed.plan() as plan:
        first = plan.run("pid")
        plan.submit(f"until {tmp_path / 'go'}\nbytes {64 << 20}\ntouch {tmp_path / 'done'}")
        wait_for(lambda: running(bed))
        bed.broker.end(signal.SIGSTOP)
        plan.send("close")
        (tmp_path / "go").touch()
        wait_for((tmp_path / "done").exists)
        time.sleep(0.5)  # until the agent has the result, else this is an ordinary cancellation
        bed.broker.end(signal.SIGCONT)
        wait_for(lambda: bed.state("w1") == "idle")
    with bed.plan() as other:
        assert other.run("pid") != first


def test_tasks_wait_for_workers_within_the_plans_number(bed: Bed, tmp_path: Path) -> None:
    for pod in ("w1", "w2", "w3"):
        bed.worker(pod)
    go = tmp_path / "go"
    with bed.plan(2) as plan:
        numbers = [plan.submit(f"until {go}") for _ in range(5)]
        wait_for(lambda: len(running(bed)) == 2)
        assert bed.state("w3") == "idle" or len(running(bed)) == 2
        go.touch()
        assert {plan.result(number) for number in numbers[:1]} == {"there\n"}


def test_a_plan_takes_tasks_before_any_worker_is_there(bed: Bed) -> None:
    with bed.plan() as plan:
        number = plan.submit("pid")
        bed.worker("late")
        assert int(plan.result(number)) > 0


def test_a_condition_comes_before_the_result_it_was_signalled_in(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("tell half\nsleep 0")
        words, body = plan.hear()
        assert words == ["condition", "1", "1", "4"]
        assert body == b"half"
        assert plan.result(1) == "slept\n"


def test_a_task_that_r_cannot_read_is_no_loss(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        assert plan.result(plan.submit("unreadable"), "unread") == "no such"
        assert bed.table()["w1"]["losses"] == 0


def test_large_result_is_announced_and_comes_on_request(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("bytes 3000000")
        assert plan.hear() == (["ready", "1", "3000000"], b"")
        plan.send("fetch 1")
        assert len(plan.result(1)) == 3000000
        plan.send("got 1")
        plan.send("fetch 1")
        assert plan.run("sleep 0") == "slept", "a result that was collected is there no more"


def test_cancelled_tasks_end_at_once_and_their_worker_goes_on(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("sleep 600")
        plan.submit("sleep 600")
        wait_for(lambda: running(bed))
        plan.send("cancel 2")
        plan.send("cancel 1")
        assert plan.run("sleep 0") == "slept"
        assert plan.told == []
        assert bed.table()["w1"]["losses"] == 0, "a cancel is no loss"


def test_closing_a_plan_ends_tasks_whose_child_holds_the_connection(bed: Bed) -> None:
    bed.worker("w1")
    plan = bed.plan()
    plan.submit("sleep 600")
    wait_for(lambda: running(bed))
    child = subprocess.Popen(["sleep", "600"], pass_fds=[plan.socket.fileno()])
    try:
        plan.send("close")
        wait_for(lambda: bed.state("w1") == "idle")
    finally:
        child.kill()
        child.wait()


def test_the_tasks_of_a_session_that_was_killed_are_dropped(bed: Bed) -> None:
    bed.worker("w1")
    session = gone()
    plan = bed.plan(pid=session.pid)
    plan.submit("sleep 600")
    wait_for(lambda: running(bed) == {"w1": session.pid})
    plan.socket.close()
    time.sleep(1.5)
    assert running(bed), "while its process lives it may come back"
    session.kill()
    session.wait()
    wait_for(lambda: bed.state("w1") == "idle")


def test_two_sessions_share_the_workers_evenly(bed: Bed, tmp_path: Path) -> None:
    for pod in ("w1", "w2", "w3", "w4"):
        bed.worker(pod)
    one, two = gone(), gone()
    try:
        with bed.plan(4, pid=one.pid) as first, bed.plan(4, pid=two.pid) as second:
            for _ in range(400):
                first.submit("sleep 0.05")
            wait_for(lambda: list(running(bed).values()).count(one.pid) == 4)
            for _ in range(400):
                second.submit("sleep 0.05")
            wait_for(lambda: sorted(running(bed).values()) == sorted([one.pid, one.pid, two.pid, two.pid]))
    finally:
        for process in (one, two):
            process.kill()
            process.wait()


def test_no_session_starves_for_one_worker(bed: Bed) -> None:
    bed.worker("w1")
    one, two = gone(), gone()
    try:
        with bed.plan(pid=one.pid) as first, bed.plan(pid=two.pid) as second:
            for _ in range(2000):
                first.submit("sleep 0.05")
            wait_for(lambda: running(bed))
            assert second.run("sleep 0") == "slept"
    finally:
        for process in (one, two):
            process.kill()
            process.wait()


def test_full_disk_refuses_the_task_and_session_goes_on(bed: Bed) -> None:
    bed.broker_prefix = ("prlimit", "--fsize=1000000")
    bed.restart_broker()
    bed.worker("w1")
    with bed.plan() as plan:
        number = plan.submit("sleep 0\n" * 200_000)
        assert "disk is full" in plan.result(number, "refused")
        assert plan.run("sleep 0") == "slept"
        number = plan.submit("bytes 2000000")
        assert "disk is full" in plan.result(number, "unkept")
        assert plan.run("sleep 0") == "slept"


def test_task_without_room_on_workers_disk_is_no_loss(bed: Bed) -> None:
    bed.worker("w1", ("prlimit", "--fsize=17000000"))
    with bed.plan() as plan:
        number = plan.submit("sleep 0\n" + "x" * 17_000_100)  # all but the last bytes fit
        assert "no room for the task" in plan.result(number, "unread")
        assert plan.run("sleep 0") == "slept"
        assert not plan.told


@pytest.mark.parametrize(
    "line",
    [b"open", b"open key 1 0 0 0", b"open ../key 1 1 1 0", b"submit 1 5", b"\xff\xfe", b"attach", b"x" * 9000],
)
def test_a_hostile_line_is_refused_and_disturbs_nobody(bed: Bed, line: bytes) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        with bed.session() as hostile:
            hostile.socket.sendall(line + b"\n")
            hostile.socket.settimeout(5)
            assert hostile.socket.recv(100).startswith((b"error", b""))
        assert plan.run("sleep 0") == "slept"


@pytest.mark.parametrize(
    "line",
    ["submit 1 -5 -", "submit x 5 -", "submit 1 5 ../x", "object ../x 5", "cancel x", "range 1", "nonsense", "got 1 x"],
)
def test_bad_line_of_a_plan_ends_connection_with_an_explanation(bed: Bed, line: str) -> None:
    plan: PlanSession = bed.plan()
    plan.send(line)
    assert plan.line().startswith("error broker not understood: ")


def test_thousands_of_tasks_of_two_sessions_all_come_back(bed: Bed) -> None:
    for pod in ("w1", "w2"):
        bed.worker(pod)
    with bed.plan(2) as first, bed.plan(2) as second:
        for plan in (first, second):
            for _ in range(2000):
                plan.submit("sleep 0")
        for plan in (first, second):
            seen = set[str]()
            while len(seen) < 2000:
                words, body = plan.hear()
                assert words[0] == "done"
                assert body == b"slept\n"
                seen.add(words[1])


def test_what_happened_to_tasks_is_kept_with_labels(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("sleep 0", label="my sum")
        plan.result(1)
        events = json.loads(bed.ask("events"))
    assert [event["event"] for event in events] == ["submitted", "started", "ended"]
    assert {event["label"] for event in events} == {"my sum"}
    assert events[1]["worker"] == "w1"
    assert events[2]["outcome"] == "done"
