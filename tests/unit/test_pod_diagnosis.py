"""Diagnosis of pods that do not come up, from the API server's reports."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common import patience
from common.kubectl import Kubectl
from components.release.pod_watch import PodWatch
from image.broker.diagnosis import GRACE_SECONDS, description, last_seen, summary

RELEASE = "future-dev"


class Cluster(Kubectl):
    """A kubectl that answers with the objects of a test."""

    items: list[dict[str, Any]] = []  # noqa: RUF012
    broken = False

    def run(self, *arguments: str, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        if self.broken:
            return subprocess.CompletedProcess(arguments, 1, "", "refused")
        return subprocess.CompletedProcess(arguments, 0, json.dumps({"items": self.items}), "")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[PodWatch, Clock]:
    monkeypatch.delenv(patience.VARIABLE, raising=False)  # the clock is not this machine's
    clock = Clock()
    cluster = type("OwnCluster", (Cluster,), {"items": [], "broken": False})("kubectl", Path("/none"))
    return PodWatch(cluster, RELEASE, clock=clock), clock


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


def show(watch: PodWatch, *items: dict[str, Any]) -> None:
    watch.kubectl.items = list(items)  # type: ignore[attr-defined]


def seconds_until_reported(watch: PodWatch, clock: Clock) -> float | None:
    """Seconds after which the problem counts as permanent."""
    for second in range(60):
        clock.now = 100.0 + second
        if watch.check():
            return float(second)
    return None


def test_full_quota_is_no_problem_while_pods_terminate(watched: tuple[PodWatch, Clock]) -> None:
    watch, clock = watched
    full = event("ReplicaSet", "w", "FailedCreate", "exceeded quota: future-dev, used: pods=44, limited: pods=44")
    ending = pod("w-old")
    ending["metadata"]["deletionTimestamp"] = "2999-01-01T00:00:00Z"
    show(watch, full, ending)
    assert seconds_until_reported(watch, clock) is None
    show(watch, full)
    assert seconds_until_reported(watch, clock) == GRACE_SECONDS["FailedCreate"]


@pytest.mark.parametrize("reason", sorted(GRACE_SECONDS))
def test_every_reason_is_reported_within_thirty_seconds(reason: str) -> None:
    assert GRACE_SECONDS[reason] < 28


def test_missing_image_is_reported_at_once_though_its_reason_alternates(
    watched: tuple[PodWatch, Clock],
) -> None:
    watch, clock = watched
    for second, reason in enumerate(["ErrImagePull", "ImagePullBackOff"] * 5):
        clock.now = 100.0 + second
        show(watch, waiting(reason, "manifest unknown"))
        if watch.check():
            assert second <= 5
            return
    pytest.fail("never reported")


def test_pod_of_an_earlier_update_gets_time_to_be_replaced(watched: tuple[PodWatch, Clock]) -> None:
    watch, clock = watched
    left = waiting("ErrImagePull", "not found")
    left["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z"
    show(watch, left)
    reported = seconds_until_reported(watch, clock)
    assert reported is not None
    assert 20 < reported < 30


def test_registry_that_fails_once_gets_time(watched: tuple[PodWatch, Clock]) -> None:
    watch, clock = watched
    show(watch, waiting("ErrImagePull", "i/o timeout"))
    assert watch.check() is None
    clock.now += 5
    assert watch.check() is None
    show(watch, pod(conditions=[{"type": "Ready", "status": "True"}]))
    clock.now += 60
    assert watch.check() is None


def test_reason_comes_from_the_event_of_the_pull(watched: tuple[PodWatch, Clock]) -> None:
    watch, clock = watched
    show(
        watch,
        waiting("ImagePullBackOff", "Back-off pulling image"),
        event("Pod", "w-1", "Failed", "Error: ImagePullBackOff"),
        event("Pod", "w-1", "Failed", "Failed to pull image: not found"),
    )
    watch.check()
    clock.now += 5
    assert str(watch.check()) == (
        "pod w-1: ImagePullBackOff: Failed to pull image: not found "
        "(check the image's name, and that the nodes may pull it (imagePullSecrets))"
    )


def test_unschedulable_pod_is_reported_later_where_an_autoscaler_adds_nodes(watched: tuple[PodWatch, Clock]) -> None:
    watch, clock = watched
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    show(watch, pod(conditions=[condition]))
    assert seconds_until_reported(watch, clock) == GRACE_SECONDS["Unschedulable"]
    patient = PodWatch(watch.kubectl, RELEASE, {"Unschedulable": 20.0}, clock)
    assert seconds_until_reported(patient, clock) is None


def test_crash_loop_is_reported_after_two_restarts(watched: tuple[PodWatch, Clock]) -> None:
    watch, _ = watched
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    show(watch, waiting("CrashLoopBackOff", restartCount=1, lastState=ended))
    assert watch.check() is None
    show(watch, waiting("CrashLoopBackOff", restartCount=2, lastState=ended))
    assert "last with exit code 1" in str(watch.check())


def test_out_of_memory_is_reported_with_the_setting_to_raise(watched: tuple[PodWatch, Clock]) -> None:
    watch, _ = watched
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    show(watch, waiting("CrashLoopBackOff", restartCount=2, lastState=ended))
    assert "raise workerMemoryGiB" in str(watch.check())


def test_pods_refused_by_a_quota_are_reported(watched: tuple[PodWatch, Clock]) -> None:
    watch, clock = watched
    show(watch, event("ReplicaSet", "future-dev-worker-1", "FailedCreate", "exceeded quota"))
    assert seconds_until_reported(watch, clock) == GRACE_SECONDS["FailedCreate"]


def test_earlier_events_and_pods_of_other_releases_are_ignored(watched: tuple[PodWatch, Clock]) -> None:
    watch, clock = watched
    show(
        watch,
        event("ReplicaSet", "old", "FailedCreate", "exceeded quota", "2001-01-01T00:00:00Z"),
        pod("theirs", "another-release", conditions=[])
        | waiting("InvalidImageName")
        | {"metadata": {"name": "theirs"}},
        {**waiting("InvalidImageName"), "metadata": {**waiting("")["metadata"], "deletionTimestamp": "now"}},
    )
    assert seconds_until_reported(watch, clock) is None


def test_api_server_without_an_answer_is_no_problem(watched: tuple[PodWatch, Clock]) -> None:
    watch, _ = watched
    watch.kubectl.broken = True  # type: ignore[attr-defined]
    assert watch.check() is None


def test_progress_counts_ready_pods_by_component() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    pods = [pod("s", component="scheduler", conditions=ready), pod("a", conditions=ready), pod("b")]
    assert summary(pods, []) == "schedulers ready 1/1; workers ready 1/2"
    assert "Pulling: image" in summary(pods, [event("Pod", "b", "Pulling", "image")])
    assert summary([], []) == "waiting for the first pod"


@pytest.mark.parametrize(
    "found",
    [
        {"lastTimestamp": "2026-01-02T03:04:05Z"},
        {"lastTimestamp": None, "eventTime": "2026-01-02T03:04:05.123456Z"},
        {"series": {"lastObservedTime": "2026-01-02T03:04:05.000000Z"}},
    ],
)
def test_all_three_time_fields_of_an_event_are_read(found: dict[str, Any]) -> None:
    assert last_seen({"metadata": {}, **found}) == "2026-01-02T03:04:05Z"


def test_description_has_phase_reason_and_last_restart() -> None:
    found = waiting("ImagePullBackOff", "no such image", lastState={"terminated": {"reason": "Error", "exitCode": 3}})
    found["status"] |= {"phase": "Pending", "startTime": "2026-01-02T03:04:05Z"}
    assert description(found) == (
        "w-1 is Pending, ImagePullBackOff no such image, it was restarted after Error (status 3), "
        "since 2026-01-02T03:04:05Z"
    )
    found["metadata"]["deletionTimestamp"] = "now"
    assert description(found) == "w-1 is being deleted"


def test_description_of_an_oom_restart_names_limit_and_setting() -> None:
    found = waiting("", lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}})
    found["metadata"]["labels"]["app.kubernetes.io/component"] = "scheduler"
    container = found["status"]["containerStatuses"][0]["name"]
    found["spec"] = {"containers": [{"name": container, "resources": {"limits": {"memory": "2Gi"}}}]}
    assert "it ran out of memory (limit 2Gi): raise schedulerMemoryGiB and was restarted" in description(found)
