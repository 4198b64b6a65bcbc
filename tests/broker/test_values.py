"""Large values of results: one that many tasks return travels once, and nothing of it is lost or left."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import textwrap
import time
from pathlib import Path

import pytest

from .conftest import ROOT, Bed, wait_for
from .r_session import PlanSession
from .sessions import gone, running

SIZE = 3_000_000
LAPTOP = -7
"""Process of a session on another machine, as it draws it."""


def name_of(letter: str, size: int = SIZE) -> str:
    return hashlib.sha256(letter.encode() * size).hexdigest()[:32]


def files(bed: Bed) -> list[Path]:
    return list((bed.folder / "results").glob("*.result"))


def arrived(bed: Bed) -> list[int]:
    """Bytes that came from workers for each result."""
    events = json.loads(bed.ask("events"))
    return [event["bytes"] - event.get("saved", 0) for event in events if event["event"] == "ended"]


def collect(plan: PlanSession, number: int) -> tuple[list[str], list[str]]:
    """Fetch a result: the words that come before it, and its own."""
    before = list[str]()
    while str(number) not in plan.ready:
        plan.hear()
    plan.send(f"fetch {number}")
    while True:
        words, _ = plan.hear()
        if words[:2] == ["done", str(number)]:
            return before, words
        if words[0] != "ready":
            before.append(words[0])


def test_value_that_many_tasks_return_is_sent_once(bed: Bed) -> None:
    for pod in ("w1", "w2"):
        bed.worker(pod)
    with bed.plan(2) as plan:
        for number in range(1, 9):
            plan.submit(f"value {SIZE} x\nprint {number}\npid")
        for number in range(1, 9):
            assert collect(plan, number)[1][2] == name_of("x")
        assert plan.values == {name_of("x"): b"x" * SIZE}
        assert len(files(bed)) == 1
        assert sum(arrived(bed)) < SIZE + 1000
        plan.send("got 1 2 3 4 5 6 7")
        assert plan.run("sleep 0") == "slept"
        assert len(files(bed)) == 1, "the last result needs it"
        plan.send("got 8 9")
        wait_for(lambda: not files(bed))


def test_one_of_two_workers_with_the_same_value_sends_it(bed: Bed) -> None:
    size = 200_000_000
    first = bed.worker("w1")
    with bed.plan(2) as plan:
        plan.submit(f"value {size} x\npid")
        wait_for(lambda: files(bed))
        first.end(signal.SIGSTOP)  # before it has sent all of it
        bed.worker("w2")
        plan.submit(f"value {size // 2} x\nvalue {size} x\npid")
        wait_for(lambda: len(files(bed)) == 2)
        time.sleep(1)  # for the broker to ask for the other value as well, if it did
        assert len(files(bed)) == 2
        first.end(signal.SIGCONT)
        for number in (1, 2):
            collect(plan, number)
        assert sum(arrived(bed)) < size + size // 2 + 1000


def test_values_of_a_result_keep_order_and_repetition(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit(f"value {SIZE} x\nvalue {SIZE} y\nvalue {SIZE} x\npid")
        _, words = collect(plan, 1)
        assert words[2].split(",") == [name_of("x"), name_of("y"), name_of("x")]
        assert sum(arrived(bed)) < 2 * SIZE + 1000


def test_result_below_the_limit_is_whole_and_requests_nothing(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("bytes 262144")
        words, body = plan.hear()
        assert words == ["done", "1", "262144"]
        assert len(body) == 262144


def test_remote_session_gets_a_value_once_while_results_need_it(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan(pid=LAPTOP) as plan:
        for _ in range(3):
            plan.submit(f"value {SIZE} x\npid")
        assert [collect(plan, number)[0] for number in (1, 2, 3)] == [["value"], [], []]
        plan.send("got 1 2 3")
        assert plan.hear()[0] == ["forget", name_of("x")]
        plan.submit(f"value {SIZE} x\npid")
        assert collect(plan, 4)[0] == ["value"], "it was forgotten"
    with bed.plan(key=plan.key, pid=LAPTOP) as again:
        assert collect(again, 4)[0] == ["value"], "another connection may be another process"


def test_values_that_no_result_needs_are_kept_within_a_bound(bed: Bed, tmp_path: Path) -> None:
    bed.restart_broker(FUTURE_KUBERNETES_VALUE_BYTES=str(2 * SIZE))
    for pod in ("w1", "w2"):
        bed.worker(pod)
    go = tmp_path / "go"
    with bed.plan(2) as plan:
        plan.submit(f"until {go}")
        for number, letter in enumerate("abcd", 2):
            plan.submit(f"value {SIZE} {letter}\npid")
            collect(plan, number)
            plan.send(f"got {number}")
        wait_for(lambda: len(files(bed)) == 2)
        for letter, received in (("d", 0), ("a", SIZE)):
            number = plan.submit(f"value {SIZE} {letter}\npid")
            collect(plan, number)
            assert arrived(bed)[-1] // 1000 == received // 1000
            plan.send(f"got {number}")
        go.touch()
        assert plan.result(1) == "there\n"
        plan.send("got 1")
        wait_for(lambda: not files(bed))


def test_another_worker_sends_a_value_when_the_first_disappears(bed: Bed, tmp_path: Path) -> None:
    first = bed.worker("w1")
    go = tmp_path / "go"
    with bed.plan(2) as plan:
        # So large that w1 still sends it when it is stopped.
        plan.submit(f"until {go}\nvalue 200000000 x\npid")
        wait_for(lambda: running(bed))
        go.touch()
        wait_for(lambda: files(bed))
        first.end(signal.SIGSTOP)
        bed.worker("w2")
        plan.submit("value 200000000 x\npid")
        wait_for(lambda: "w2" in running(bed))
        first.end(signal.SIGKILL)
        assert collect(plan, 2)[1][2] == name_of("x", 200_000_000)
        assert collect(plan, 1)[1][2] == name_of("x", 200_000_000)
        assert len(files(bed)) == 1


def test_cancelled_task_whose_value_is_underway_frees_its_worker(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit("value 200000000 x\npid")
        wait_for(lambda: files(bed))
        plan.send("cancel 1")
        assert plan.run("sleep 0") == "slept"
        assert plan.told == []
        wait_for(lambda: not files(bed))


def test_result_cancelled_after_its_arrival_leaves_no_file(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.submit(f"value {SIZE} x\nbytes {SIZE}")
        assert plan.hear()[0][0] == "ready"
        assert len(files(bed)) == 2
        plan.send("cancel 1")
        wait_for(lambda: not files(bed))


def test_a_full_disk_costs_the_results_with_the_value_only(bed: Bed) -> None:
    bed.broker_prefix = ("prlimit", "--fsize=1000000")
    bed.restart_broker()
    bed.worker("w1")
    with bed.plan() as plan:
        assert "disk is full" in plan.result(plan.submit(f"value {SIZE} x\npid"), "unkept")
        assert plan.run("sleep 0") == "slept"
        assert not files(bed)


def test_a_value_survives_a_broker_that_was_killed(bed: Bed, tmp_path: Path) -> None:
    bed.worker("w1")
    runs = tmp_path / "runs"
    plan = bed.plan()
    for _ in range(3):
        plan.submit(f"touch {runs}\nvalue {SIZE} x\nvalue {SIZE} y\nvalue {SIZE} x\npid")
    for _ in range(3):
        assert plan.hear()[0][0] == "ready"
    plan.send("got 1")
    wait_for(lambda: bed.state("w1") == "idle")
    bed.restart_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 2 3")
        for number in (2, 3):
            assert collect(again, number)[1][2].split(",") == [name_of("x"), name_of("y"), name_of("x")]
        assert again.values == {name_of("x"): b"x" * SIZE, name_of("y"): b"y" * SIZE}
        again.send("got 2")
        assert again.run("sleep 0") == "slept"
        assert len(files(bed)) == 2
        again.send("got 3 1")
        wait_for(lambda: not files(bed))
    assert runs.read_text() == "xxx"


def test_result_whose_value_a_restart_lost_is_computed_again(bed: Bed) -> None:
    bed.worker("w1")
    plan = bed.plan()
    plan.submit(f"value {SIZE} x\npid")
    assert plan.hear()[0][0] == "ready"
    wait_for(lambda: bed.probe("w1")[1] == "idle")  # else its agent has the result, and sends it again
    bed.broker.end()
    bed.broker.wait()
    for file in files(bed):
        file.unlink()
    bed.start_broker()
    with bed.plan(key=plan.key) as again:
        again.send("hold 1")
        assert again.hear()[0] == ["unknown", "1"]
        again.submit(f"value {SIZE} x\npid", 1)
        collect(again, 1)
        assert again.values == {name_of("x"): b"x" * SIZE}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["finished", "value", "_complete", "end", "fetch", "collected"])
def test_broker_killed_at_any_step_of_a_value_repeats_nothing(bed: Bed, tmp_path: Path, when: str, method: str) -> None:
    bed.restart_broker(TEST_DIES=f"{when} {method}")
    dying = bed.broker
    bed.worker("w1")
    runs = tmp_path / "runs"
    program = f"touch {runs}\nvalue {SIZE} x\npid"
    key, values = "", dict[str, bytes]()
    while not values:
        try:
            with bed.plan(key=key) as plan:
                key = plan.key
                plan.send("hold 1")
                while not plan.values:
                    words, _ = plan.hear()
                    if words[0] == "unknown":
                        plan.submit(program, 1)
                    elif words[0] == "ready":
                        plan.send("fetch 1")
                while plan.hear()[0][0] != "done":
                    pass
                values = plan.values
                plan.send("got 1")
                plan.result(plan.submit("sleep 0", 2))  # not 1: the broker may still know it from before its end
        except (OSError, EOFError):
            dying.wait()
            bed.start_broker()
    assert values == {name_of("x"): b"x" * SIZE}
    assert dying.process.poll() == -signal.SIGKILL
    assert runs.read_text() == "x"


def test_values_of_a_gone_session_are_removed_by_next_broker(bed: Bed) -> None:
    bed.worker("w1")
    session = gone()
    plan = bed.plan(pid=session.pid)
    plan.submit(f"value {SIZE} x\npid")
    assert plan.hear()[0][0] == "ready"
    bed.broker.end()
    bed.broker.wait()
    session.kill()
    session.wait()
    bed.start_broker()
    assert not files(bed)


def test_worker_and_session_call_the_same_values_nothing_but_content() -> None:
    # Twice, because the worker's R loads no package of its own: a future would see it loaded.
    def body(path: str) -> str:
        found = re.search(
            r"^( *)is_content <- function\(x, depth = 0L\) \{[^\n]*\n(.*?)^\1\}$", text(path), re.M | re.S
        )
        assert found, path
        return textwrap.dedent(found[2])

    def text(path: str) -> str:
        return (ROOT / "image" / path).read_text()

    assert body("worker/worker.R") == body("future.kubernetes/R/objects.R")
