"""Task mode: a large object goes to a worker once for all tasks that need it."""

from __future__ import annotations

import json
import shutil

import pytest

from .conftest import Bed


def test_large_object_goes_to_a_worker_once_for_all_tasks(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.object("abc", b"x" * 700_000)
        first = plan.result(plan.submit("object abc", needs="abc"))
        assert first.startswith("700000 from ")
        assert plan.result(plan.submit("object abc", needs="abc")) == first, "the file that was there"
        assert plan.result(plan.submit("die", needs="abc"), "lost")
        assert plan.result(plan.submit("object abc", needs="abc")).startswith("700000 from "), "a fresh R has it too"


def test_forgotten_object_is_requested_with_the_task_that_needs_it(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.object("abc", b"x" * 10)
        plan.result(plan.submit("object abc", needs="abc"))
        plan.send("forget abc")
        plan.submit("object abc", needs="abc")
        assert plan.hear() == (["unknown", "2"], b"")
        plan.object("abc", b"x" * 11)
        assert plan.result(plan.submit("object abc", 2, needs="abc")).startswith("11 from ")


def test_next_plan_does_not_see_the_objects_of_the_last(bed: Bed) -> None:
    bed.worker("w1")
    with bed.plan() as plan:
        plan.object("abc", b"x" * 10)
        assert plan.result(plan.submit("object abc", needs="abc")).startswith("10 from ")
        plan.send("close")
    with bed.plan() as other:
        other.submit("object abc", needs="abc")
        assert other.hear() == (["unknown", "1"], b"")


def test_least_used_object_makes_room_on_worker_and_returns(bed: Bed) -> None:
    room = 1_500_000 / shutil.disk_usage(bed.temporary).free
    bed.worker("w1", TEST_FIRST=f"from image.worker import objects; objects._SHARE_OF_DISK = {room}")
    with bed.plan() as plan:
        for name in ("a", "b", "c"):
            plan.object(name, b"x" * 700_000)

        def read(name: str) -> str:
            return plan.result(plan.submit(f"object {name}", needs=name))

        first = {name: read(name) for name in ("a", "b")}
        assert read("a") == first["a"]
        read("c")  # in place of b, which was used before a
        assert read("a") == first["a"], "the file that was there"
        assert read("b") != first["b"], "it has come again"
        sent = [event.get("objects", 0) for event in json.loads(bed.ask("events")) if event["event"] == "started"]
        assert sent == [700_000, 700_000, 0, 700_000, 0, 700_000]


def test_object_without_room_on_disk_refuses_only_its_tasks(bed: Bed) -> None:
    bed.broker_prefix = ("prlimit", "--fsize=1000000")
    bed.restart_broker()
    bed.worker("w1")
    with bed.plan() as plan:
        plan.object("abc", b"x" * 2_000_000)
        assert "disk is full" in plan.result(plan.submit("object abc", needs="abc"), "refused")
        assert plan.run("sleep 0") == "slept"


@pytest.mark.parametrize("size", [1_000_100, 3_000_000])
def test_object_without_room_on_disk_is_resent_with_next_task(bed: Bed, size: int) -> None:
    bed.worker("w1", ("prlimit", "--fsize=1000000"))
    with bed.plan() as plan:
        plan.object("abc", b"x" * size)
        pids = {plan.result(plan.submit("pid", needs="abc")) for _ in range(2)}
        assert len(pids) == 1, "the worker went on"
    started = [event for event in json.loads(bed.ask("events")) if event["event"] == "started"]
    assert [event.get("objects") for event in started] == [size, size]
