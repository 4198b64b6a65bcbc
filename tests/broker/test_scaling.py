"""The number of workers goes up and down through the Kubernetes API, and no worker in use is lost by it."""

from __future__ import annotations

import time

import pytest

from .conftest import Bed, wait_for
from .kubernetes_api import Api, pod, start, state


def test_scaling_up_patches_the_deployment_once(scaled: Bed, api: Api) -> None:
    assert scaled.ask("scale 7") == "ok 7"
    assert api.asked == ["7"]
    assert scaled.ask("scale 7") == "ok 7"
    assert api.asked == ["7"], "what is so already is not asked for again"


@pytest.mark.parametrize("number", ["11", "-1", "1000000"])
def test_number_out_of_bounds_is_refused_with_the_bounds(scaled: Bed, api: Api, number: str) -> None:
    assert scaled.ask(f"scale {number}") == (
        f"error above-maximum {number} workers were asked for; this release allows 0 to 10"
    )
    assert api.asked == []


def test_scaling_down_retires_idle_workers_and_none_in_use(scaled: Bed, api: Api) -> None:
    start(scaled, api, "a", "b", "c")
    with scaled.attach() as session:
        assert scaled.ask("scale 1") == "ok 1"
        wait_for(lambda: len(scaled.table()) == 1)
        assert api.asked == [], "Kubernetes could still take the one in use"
        assert scaled.ask("status").startswith("ok 1 "), "who asks for two now is not to count on those that go"
        api.pods = [pod(name, ready=f"r-worker-{name}" == session.pod) for name in ("a", "b", "c")]
        wait_for(lambda: api.asked == ["1"])
        assert int(session.call("pid")) > 0
    for name in {"a", "b", "c"} - {session.pod.removeprefix("r-worker-")}:
        assert state(scaled, name) == "retiring"


def test_number_stays_while_kubernetes_sees_a_used_worker_unready(scaled: Bed, api: Api) -> None:
    start(scaled, api, "a", "b")
    with scaled.attach() as session:
        used, free = sorted(("a", "b"), key=lambda name: session.pod != f"r-worker-{name}")
        api.pods = [pod(used, ready=False), pod(free)]  # its node is out of breath, or its first probe is yet to come
        assert scaled.ask("scale 1") == "ok 1"
        wait_for(lambda: state(scaled, free) == "retiring")
        api.pods = [pod(used, ready=False), pod(free, ready=False)]
        with pytest.raises(AssertionError):
            wait_for(lambda: api.asked, 5)
        api.pods = [pod(used), pod(free, ready=False)]
        wait_for(lambda: api.asked == ["1"])
        assert int(session.call("pid")) > 0


def test_scaling_down_retires_unready_workers_first(scaled: Bed, api: Api) -> None:
    names = ("a", "b", "c")
    start(scaled, api, *names)
    api.pods = [pod(name, ready=name != "c") for name in names]
    assert scaled.ask("scale 2") == "ok 2"
    wait_for(lambda: [state(scaled, name) for name in names] == ["idle", "idle", "retiring"])
    wait_for(lambda: api.asked == ["2"])


def test_number_stays_until_the_remaining_workers_are_ready(scaled: Bed, api: Api) -> None:
    names = ("a", "b", "c")
    start(scaled, api, *names)
    api.pods = [pod(name, ready=False) for name in names]  # they have only just come
    assert scaled.ask("scale 1") == "ok 1"
    wait_for(lambda: sorted(state(scaled, name) for name in names) == ["idle", "retiring", "retiring"])
    with pytest.raises(AssertionError):
        wait_for(lambda: api.asked, 5)
    api.pods = [pod(name, ready=state(scaled, name) == "idle") for name in names]
    wait_for(lambda: api.asked == ["1"])


def test_terminating_pods_are_not_counted_when_scaling_down(scaled: Bed, api: Api) -> None:
    start(scaled, api, "a", "b", "c")
    api.replicas = 2
    api.pods[0]["metadata"]["deletionTimestamp"] = "now"
    assert scaled.ask("scale 1") == "ok 1"
    wait_for(lambda: sorted(state(scaled, name) for name in "bc") == ["idle", "retiring"])
    api.pods[1:] = [pod(name, ready=state(scaled, name) == "idle") for name in "bc"]
    wait_for(lambda: api.asked == ["1"])


def test_retiring_workers_are_reinstated_when_wanted_again(scaled: Bed, api: Api) -> None:
    names = ("a", "b", "c")
    start(scaled, api, *names)

    def states() -> list[str]:
        return sorted(state(scaled, name) for name in names)

    assert scaled.ask("scale 1") == "ok 1"
    wait_for(lambda: states() == ["idle", "retiring", "retiring"])
    assert scaled.ask("scale 2") == "ok 2"
    wait_for(lambda: states() == ["idle", "idle", "retiring"])
    assert scaled.ask("scale 3") == "ok 3"
    wait_for(lambda: states() == ["idle", "idle", "idle"])
    assert {row["state"] for row in scaled.table().values()} == {"idle"}
    assert api.asked == [], "none had been taken yet"

    assert scaled.ask("scale 0") == "ok 0"
    wait_for(lambda: states() == ["retiring"] * 3)
    waiting = [scaled.session() for _ in names]
    for session in waiting:
        session.send("attach 1 20")
        assert session.line().startswith("wait")
    assert scaled.ask("scale 3") == "ok 3"
    for session in waiting:
        while not (answer := session.line()).startswith("ok"):
            assert answer.startswith("wait"), answer
        assert int(session.call("pid")) > 0


def test_retiring_workers_still_seen_ready_are_reinstated_first(scaled: Bed, api: Api) -> None:
    names = ("a", "b", "c")
    start(scaled, api, *names)
    assert scaled.ask("scale 1") == "ok 1"
    wait_for(lambda: sorted(state(scaled, name) for name in names) == ["idle", "retiring", "retiring"])
    seen, unseen = (name for name in names if state(scaled, name) == "retiring")
    api.pods = [pod(name, ready=name != seen) for name in names]
    assert scaled.ask("scale 2") == "ok 2"
    wait_for(lambda: state(scaled, unseen) == "idle")
    assert state(scaled, seen) == "retiring"
    wait_for(lambda: api.asked == ["2"])


def test_retiring_worker_that_kubernetes_keeps_becomes_idle_again(impatient: Bed, api: Api) -> None:
    start(impatient, api, "a", "b")
    api.pods = [pod("a"), pod("b", ready=False)]
    assert impatient.ask("scale 1") == "ok 1"
    wait_for(lambda: state(impatient, "b") == "retiring")
    wait_for(lambda: api.asked == ["1"])
    time.sleep(1)
    assert impatient.ask("scale 2") == "ok 2"
    wait_for(lambda: state(impatient, "b") == "idle")
    again = time.monotonic()
    assert impatient.ask("scale 1") == "ok 1"
    wait_for(lambda: state(impatient, "b") == "retiring")
    wait_for(lambda: state(impatient, "b") == "idle")
    assert time.monotonic() - again >= 3, "the first time that it was let go counts no more"
    assert len(impatient.table()) == 2


def test_ready_pod_without_a_worker_endangers_no_used_worker(impatient: Bed, api: Api) -> None:
    start(impatient, api, "a", "b")
    api.replicas = 3
    with impatient.attach() as session:
        free = ({"r-worker-a", "r-worker-b"} - {session.pod}).pop().removeprefix("r-worker-")
        api.pods = [pod("a", ready=free != "a"), pod("b", ready=free != "b"), pod("lost")]
        assert impatient.ask("scale 0") == "ok 1"
        wait_for(lambda: api.asked == ["2"], 15)
    wait_for(lambda: impatient.state(session.pod) != "busy")
    assert impatient.ask("scale 0") == "ok 0"
    wait_for(lambda: api.asked == ["2", "0"], 15)


def test_number_is_never_lowered_below_the_workers_in_use(scaled: Bed, api: Api) -> None:
    scaled.worker("r-worker-a")
    api.pods = [pod("a")]
    with scaled.attach():
        assert scaled.ask("scale 0") == "ok 1"
        wait_for(lambda: api.asked == ["1"])
