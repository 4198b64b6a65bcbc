"""Why pods do not come up, read from what the cluster says of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from local.rollout import GRACE_SECONDS, Kubectl, Rollout, in_words, last_seen

RELEASE = "future-dev"


class Cluster(Kubectl):
    """A kubectl that answers with what a test put there."""

    items: list[dict[str, Any]] = []  # noqa: RUF012
    broken = False

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        if self.broken:
            return subprocess.CompletedProcess(arguments, 1, "", "refused")
        return subprocess.CompletedProcess(arguments, 0, json.dumps({"items": self.items}), "")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watched() -> tuple[Rollout, Clock]:
    clock = Clock()
    cluster = type("OwnCluster", (Cluster,), {"items": [], "broken": False})("kubectl", Path("/none"))
    return Rollout(cluster, "ns", RELEASE, clock=clock), clock


def pod(name: str = "w-1", release: str = RELEASE, component: str = "worker", **status: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": release, "app.kubernetes.io/component": component}
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels}, "status": status}


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    container = {"name": "worker", "state": {"waiting": {"reason": reason, "message": message}}, **more}
    return pod(containerStatuses=[container])


def event(kind: str, name: str, reason: str, message: str, when: str = "2999-01-01T00:00:00Z") -> dict[str, Any]:
    about = {"kind": kind, "name": name}
    return {
        "kind": "Event",
        "metadata": {},
        "involvedObject": about,
        "reason": reason,
        "message": message,
        "lastTimestamp": when,
    }


def show(rollout: Rollout, *items: dict[str, Any]) -> None:
    rollout.kubectl.items = list(items)  # type: ignore[attr-defined]


def seconds_until_told(rollout: Rollout, clock: Clock) -> float | None:
    """After how long the trouble shown counts as final."""
    for second in range(60):
        clock.now = 100.0 + second
        if rollout.look():
            return float(second)
    return None


def test_a_quota_is_no_trouble_while_pods_that_count_against_it_are_ending(watched: tuple[Rollout, Clock]) -> None:
    rollout, clock = watched
    full = event("ReplicaSet", "w", "FailedCreate", "exceeded quota: future-dev, used: pods=44, limited: pods=44")
    ending = pod("w-old")
    ending["metadata"]["deletionTimestamp"] = "2999-01-01T00:00:00Z"
    show(rollout, full, ending)
    assert seconds_until_told(rollout, clock) is None
    show(rollout, full)
    assert seconds_until_told(rollout, clock) == GRACE_SECONDS["FailedCreate"]


@pytest.mark.parametrize("reason", sorted(GRACE_SECONDS))
def test_every_reason_is_told_within_thirty_seconds(reason: str) -> None:
    assert GRACE_SECONDS[reason] < 28


def test_an_image_that_is_not_there_is_told_at_once_though_its_state_goes_to_and_fro(
    watched: tuple[Rollout, Clock],
) -> None:
    rollout, clock = watched
    for second, reason in enumerate(["ErrImagePull", "ImagePullBackOff"] * 5):
        clock.now = 100.0 + second
        show(rollout, waiting(reason, "manifest unknown"))
        if rollout.look():
            assert second <= 5
            return
    pytest.fail("never told")


def test_what_an_earlier_try_left_behind_is_given_time_to_be_replaced(watched: tuple[Rollout, Clock]) -> None:
    rollout, clock = watched
    left = waiting("ErrImagePull", "not found")
    left["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z"
    show(rollout, left)
    told = seconds_until_told(rollout, clock)
    assert told is not None
    assert 20 < told < 30


def test_a_registry_that_hiccups_is_given_time(watched: tuple[Rollout, Clock]) -> None:
    rollout, clock = watched
    show(rollout, waiting("ErrImagePull", "i/o timeout"))
    assert rollout.look() is None
    clock.now += 5
    assert rollout.look() is None
    show(rollout, pod(conditions=[{"type": "Ready", "status": "True"}]))
    clock.now += 60
    assert rollout.look() is None


def test_the_reason_comes_from_the_event_of_the_pull(watched: tuple[Rollout, Clock]) -> None:
    rollout, clock = watched
    show(
        rollout,
        waiting("ImagePullBackOff", "Back-off pulling image"),
        event("Pod", "w-1", "Failed", "Error: ImagePullBackOff"),
        event("Pod", "w-1", "Failed", "Failed to pull image: not found"),
    )
    rollout.look()
    clock.now += 5
    assert str(rollout.look()) == "pod w-1: ImagePullBackOff: Failed to pull image: not found"


def test_a_pod_that_fits_nowhere_is_told_and_an_autoscaler_gets_longer(watched: tuple[Rollout, Clock]) -> None:
    rollout, clock = watched
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    show(rollout, pod(conditions=[condition]))
    assert seconds_until_told(rollout, clock) == GRACE_SECONDS["Unschedulable"]
    patient = Rollout(rollout.kubectl, "ns", RELEASE, {"Unschedulable": 20.0}, clock)
    assert seconds_until_told(patient, clock) is None


def test_one_restart_is_no_crash_loop_and_two_are(watched: tuple[Rollout, Clock]) -> None:
    rollout, _ = watched
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    show(rollout, waiting("CrashLoopBackOff", restartCount=1, lastState=ended))
    assert rollout.look() is None
    show(rollout, waiting("CrashLoopBackOff", restartCount=2, lastState=ended))
    assert "last with exit code 1" in str(rollout.look())


def test_out_of_memory_is_named_with_the_key_to_raise(watched: tuple[Rollout, Clock]) -> None:
    rollout, _ = watched
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    show(rollout, waiting("CrashLoopBackOff", restartCount=2, lastState=ended))
    assert "raise workerMemoryGiB" in str(rollout.look())


def test_pods_that_a_quota_keeps_from_being_made_are_told(watched: tuple[Rollout, Clock]) -> None:
    rollout, clock = watched
    show(rollout, event("ReplicaSet", "future-dev-worker-1", "FailedCreate", "exceeded quota"))
    assert seconds_until_told(rollout, clock) == GRACE_SECONDS["FailedCreate"]


def test_events_of_an_earlier_try_and_pods_of_others_are_none_of_ours(watched: tuple[Rollout, Clock]) -> None:
    rollout, clock = watched
    show(
        rollout,
        event("ReplicaSet", "old", "FailedCreate", "exceeded quota", "2001-01-01T00:00:00Z"),
        pod("theirs", "another-release", conditions=[])
        | waiting("InvalidImageName")
        | {"metadata": {"name": "theirs"}},
        {**waiting("InvalidImageName"), "metadata": {**waiting("")["metadata"], "deletionTimestamp": "now"}},
    )
    assert seconds_until_told(rollout, clock) is None


def test_an_api_that_does_not_answer_for_a_moment_is_no_trouble(watched: tuple[Rollout, Clock]) -> None:
    rollout, _ = watched
    rollout.kubectl.broken = True  # type: ignore[attr-defined]
    assert rollout.look() is None


def test_progress_counts_ready_pods_by_component() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    pods = [pod("s", component="scheduler", conditions=ready), pod("a", conditions=ready), pod("b")]
    assert in_words(pods, []) == "schedulers ready 1/1; workers ready 1/2"
    assert "Pulling: image" in in_words(pods, [event("Pod", "b", "Pulling", "image")])
    assert in_words([], []) == "waiting for the first pod"


@pytest.mark.parametrize(
    "found",
    [
        {"lastTimestamp": "2026-01-02T03:04:05Z"},
        {"lastTimestamp": None, "eventTime": "2026-01-02T03:04:05.123456Z"},
        {"series": {"lastObservedTime": "2026-01-02T03:04:05.000000Z"}},
    ],
)
def test_the_three_forms_of_an_events_time_are_read(found: dict[str, Any]) -> None:
    assert last_seen({"metadata": {}, **found}) == "2026-01-02T03:04:05Z"
