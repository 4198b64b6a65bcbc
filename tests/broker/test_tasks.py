"""Task mode: tasks are queued, run, run again and collected, and what fails is blamed on what failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Bed, PlanSession, wait_for


def running(bed: Bed) -> dict[str, int]:
    """Workers that run a task, and the session that it is of."""
    return {pod: row["session"] for pod, row in bed.table().items() if row["state"] == "busy"}


def gone() -> subprocess.Popen[bytes]:
    """A process that plays an R session's, to be ended by the test."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_a_task_runs_and_its_result_comes_back(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        assert plan.opened.split()[:2] == ["opened", "1"]
        first = plan.run("pid")
        assert plan.run("pid") == first, "one R for all tasks of a plan"
        assert bed.state("w1") == "idle", "free when its task has ended, whoever collects the result"
    with bed.plan() as other:
        assert other.run("pid") != first, "a fresh R for another plan"


def test_tasks_wait_for_workers_and_no_more_run_than_the_plan_says(bed: Bed, tmp_path: Path) -> None:
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


def test_an_r_that_dies_is_blamed_and_the_task_runs_again(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        assert plan.run(f"once {tmp_path / 'died'}") == "again"
        assert plan.told == ["again 1 w1 its R process was ended by signal 9"]
        assert bed.table()["w1"]["losses"] == 1


def test_a_task_that_ends_its_r_each_time_is_given_up_with_each_loss_and_the_last_lines(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan(retries=1) as plan:
        lost = json.loads(plan.result(plan.submit("print *** caught segfault ***\nleave 139"), "lost"))
        assert lost["pods"] == ["w1", "w1"]
        assert lost["reasons"] == ["its R process ended with exit status 139"] * 2
        assert lost["tail"].splitlines()[-1] == "*** caught segfault ***"
        assert plan.run("sleep 0") == "slept", "the session and the worker go on"


def test_the_end_of_r_is_noticed_at_once_though_a_child_of_it_lives(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan(retries=0) as plan:
        lost = json.loads(plan.result(plan.submit("fork\ndie"), "lost"))
        assert lost["reasons"] == ["its R process was ended by signal 9"]


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


def test_a_large_result_is_announced_and_comes_when_it_is_asked_for(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("bytes 3000000")
        assert plan.hear() == (["ready", "1", "3000000"], b"")
        plan.send("fetch 1")
        assert len(plan.result(1)) == 3000000
        plan.send("got 1")
        plan.send("fetch 1")
        assert plan.run("sleep 0") == "slept", "a result that was collected is there no more"


def test_results_wait_for_a_session_that_lost_its_connection(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("pid")
        plan.result(1)
        plan.submit("sleep 0.5")
    with bed.plan(key=plan.key) as again:
        assert {again.hear()[0][1], again.hear()[0][1]} == {"1", "2"}, "the first was not acknowledged"
        again.send("got 1 2")
    with bed.plan(key=plan.key) as last:
        assert last.run("sleep 0") == "slept"
        assert last.told == [], "what was acknowledged is not sent again"


def test_a_restart_of_the_broker_disturbs_no_running_task(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    go, begun = tmp_path / "go", tmp_path / "begun"
    plan = bed.plan()
    plan.submit(f"touch {begun}\nuntil {go}\npid")
    wait_for(begun.exists)
    bed.restart_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 1")
        wait_for(lambda: running(bed) == {"w1": os.getpid()})
        go.touch()
        assert again.result(1).startswith("touched\nthere\n")
    assert begun.read_text() == "x", "computed once"


def test_a_result_that_was_ready_while_the_broker_was_away_is_not_lost(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    go, begun = tmp_path / "go", tmp_path / "begun"
    plan = bed.plan()
    plan.submit(f"touch {begun}\nuntil {go}")
    wait_for(begun.exists)
    bed.broker.end()
    bed.broker.wait()
    go.touch()
    wait_for(lambda: bed.probe("w1")[1] == "connecting")
    bed.start_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 1")
        assert again.result(1) == "touched\nthere\n"
    assert begun.read_text() == "x", "computed once"


def test_tasks_that_waited_in_a_broker_that_was_lost_are_asked_for_again(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    go, begun = tmp_path / "go", tmp_path / "begun"
    plan = bed.plan()
    plan.submit(f"touch {begun}\nuntil {go}")
    plan.submit("sleep 0")
    wait_for(begun.exists)
    bed.restart_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 1 2")
        asked = {again.hear()[0][1], again.hear()[0][1]}
        assert asked == {"1", "2"}, "the running one as well: its data are needed if its worker is lost"
        again.submit(f"touch {begun}\nuntil {go}", 1)
        again.submit("sleep 0", 2)
        go.touch()
        assert again.result(1) == "touched\nthere\n"
        assert again.result(2) == "slept\n"
    assert begun.read_text() == "x", "computed once"


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


def test_closing_a_plan_ends_what_it_runs_although_a_child_holds_its_connection(bed: Bed) -> None:
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


def test_a_worker_that_went_before_its_task_had_ended_does_not_count(bed: Bed, tmp_path: Path) -> None:
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
            assert " ".join(words) == f"again 1 {pod} its pod was told to go, and its time to finish was over"
        go.touch()
        bed.start_worker("w4")
        assert plan.result(1) == "touched\nthere\n"


def test_a_killed_worker_is_lost_and_its_task_runs_on_another(bed: Bed, tmp_path: Path) -> None:
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


def test_a_full_disk_refuses_the_task_and_the_session_goes_on(bed: Bed) -> None:
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
def test_a_bad_line_of_a_plan_ends_its_connection_with_what_is_known(bed: Bed, line: str) -> None:
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


def test_a_large_object_goes_to_a_worker_once_for_all_tasks_that_need_it(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.object("abc", b"x" * 700_000)
        first = plan.result(plan.submit("object abc", needs="abc"))
        assert first.startswith("700000 from ")
        assert plan.result(plan.submit("object abc", needs="abc")) == first, "the file that was there"
        assert plan.result(plan.submit("die", needs="abc"), "lost")
        assert plan.result(plan.submit("object abc", needs="abc")).startswith("700000 from "), "a fresh R has it too"


def test_an_object_that_was_forgotten_is_asked_for_with_the_task_that_needs_it(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.object("abc", b"x" * 10)
        plan.result(plan.submit("object abc", needs="abc"))
        plan.send("forget abc")
        plan.submit("object abc", needs="abc")
        assert plan.hear() == (["unknown", "2"], b"")
        plan.object("abc", b"x" * 11)
        assert plan.result(plan.submit("object abc", 2, needs="abc")).startswith("11 from ")


def test_another_plan_does_not_see_the_objects_of_the_one_before(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.object("abc", b"x" * 10)
        assert plan.result(plan.submit("object abc", needs="abc")).startswith("10 from ")
        plan.send("close")
    with bed.plan() as other:
        other.submit("object abc", needs="abc")
        assert other.hear() == (["unknown", "1"], b"")


def test_an_object_without_room_on_the_disk_refuses_its_tasks_only(bed: Bed) -> None:
    bed.broker_prefix = ("prlimit", "--fsize=1000000")
    bed.restart_broker()
    bed.worker("w1")
    with bed.plan() as plan:
        plan.object("abc", b"x" * 2_000_000)
        assert "disk is full" in plan.result(plan.submit("object abc", needs="abc"), "refused")
        assert plan.run("sleep 0") == "slept"


def collect(bed: Bed, *programs: str) -> list[bytes]:
    """The results of programs, one after the other, as R collects them: across the end of the broker."""
    key, results = "", list[bytes]()
    while len(results) < len(programs):
        if bed.broker.process.poll() is not None:
            bed.start_broker()
        try:
            with bed.plan(key=key) as plan:
                key = plan.key
                plan.send(f"hold {len(results) + 1}")
                while len(results) < len(programs):
                    number, program = len(results) + 1, programs[len(results)]
                    words, body = plan.hear()
                    if words[:2] == ["unknown", str(number)]:
                        plan.submit(program, number)
                    elif words[:2] == ["ready", str(number)]:
                        plan.send(f"fetch {number}")
                    elif words[:2] == ["done", str(number)]:
                        results.append(body)
                        plan.send(f"got {number}")
                        plan.send(f"hold {number + 1}")
        except (OSError, EOFError):
            key = key or "early"
            bed.broker.wait()
    return results


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["open", "submit", "_start", "condition", "finished", "end", "fetch", "collected"])
def test_a_broker_killed_at_any_step_loses_nothing_and_computes_nothing_twice(
    bed: Bed, tmp_path: Path, when: str, method: str
) -> None:
    bed.restart_broker(TEST_DIES=f"{when} {method}")
    dying = bed.broker
    bed.worker("w1")
    large, small = collect(bed, f"touch {tmp_path / 'runs'}\ntell half\nbytes 2000000", "sleep 0")
    assert len(large) == 2_000_008
    assert small == b"slept\n"
    assert dying.process.poll() == -signal.SIGKILL
    assert (tmp_path / "runs").read_text() == "x"


def test_results_that_wait_survive_a_broker_that_was_killed(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    runs = tmp_path / "runs"
    plan = bed.plan()
    for number in range(1, 4):
        plan.submit(f"touch {runs}\nbytes {number * 400_000}")
    wait_for(lambda: runs.exists() and len(runs.read_text()) == 3 and bed.state("w1") == "idle")
    assert plan.hear()[0][1] == "1"
    plan.send("got 1")
    plan.send("fetch 3")
    wait_for(lambda: len(list((bed.folder / "results").glob("*.result"))) == 2)
    bed.restart_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 2 3")
        found = dict[str, int]()
        while len(found) < 2:
            words, body = again.hear()
            if words[0] == "ready":
                again.send(f"fetch {words[1]}")
            else:
                found[words[1]] = len(body)
        assert found == {"2": 800_008, "3": 1_200_008}
        again.send("got 2 3")
        wait_for(lambda: not list((bed.folder / "results").glob("*.result")))
        again.send("close")
    wait_for(lambda: not list((bed.folder / "results").iterdir()))
    assert runs.read_text() == "xxx"


def test_the_results_of_a_session_that_has_gone_are_removed_by_the_next_broker(bed: Bed) -> None:
    bed.worker("w1")
    session = gone()
    plan = bed.plan(pid=session.pid)
    plan.submit("bytes 400000")
    wait_for(lambda: list((bed.folder / "results").glob("*.result")) and bed.state("w1") == "idle")
    bed.broker.end()
    bed.broker.wait()
    session.kill()
    session.wait()
    bed.start_broker()
    assert not list((bed.folder / "results").iterdir())
