"""Causes for which a pod does not start, only from its status and events."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from image.broker.diagnosis import GRACE_SECONDS, STUCK, PodProblem, diagnose

from .conftest import ROOT


def pod(*containers: dict[str, Any], **conditions: str) -> dict[str, Any]:
    found = [{"type": name, "status": status} for name, status in conditions.items()]
    return {"metadata": {"name": "w-1"}, "status": {"conditions": found, "containerStatuses": list(containers)}}


def waiting(reason: str, **more: Any) -> dict[str, Any]:
    return {"name": "worker", "state": {"waiting": {"reason": reason, "message": "said"}}, **more}


def event(reason: str, message: str, at: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {"reason": reason, "message": message, "involvedObject": {"name": "w-1"}, "lastTimestamp": at}


def test_running_pod_has_no_problem() -> None:
    assert diagnose(pod({"name": "worker", "state": {"running": {}}}, Ready="True"), []) is None


@pytest.mark.parametrize("reason", sorted(STUCK - {"CrashLoopBackOff"}))
def test_container_that_waits_for_this_reason_is_a_problem(reason: str) -> None:
    problem = diagnose(pod(waiting(reason)), [])
    assert problem is not None
    assert (problem.reason, problem.subject, problem.message) == (reason, "pod w-1", "said")
    assert problem.grace == GRACE_SECONDS[reason]


def test_container_that_is_being_created_is_no_problem() -> None:
    assert diagnose(pod(waiting("ContainerCreating")), []) is None


def test_init_container_counts_as_well() -> None:
    found = pod()
    found["status"]["initContainerStatuses"] = [waiting("InvalidImageName")]
    assert diagnose(found, [])


@pytest.mark.parametrize(("restarts", "is_problem"), [(1, False), (2, True)])
def test_crash_loop_is_a_problem_from_the_second_restart(restarts: int, is_problem: bool) -> None:
    ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
    problem = diagnose(pod(waiting("CrashLoopBackOff", restartCount=restarts, lastState=ended)), [])
    assert (problem is not None) is is_problem
    if problem:
        assert problem.message == "container worker ended 2 times, last with exit code 3 (Error)"


def test_newest_event_of_the_pull_replaces_the_back_off_message() -> None:
    events = [
        event("Failed", "Failed to pull image: timeout", "2026-01-01T00:00:01Z"),
        event("Failed", "Failed to pull image: not found", "2026-01-01T00:00:02Z"),
        event("Failed", "Error: ImagePullBackOff", "2026-01-01T00:00:03Z"),
    ]
    problem = diagnose(pod(waiting("ImagePullBackOff")), events)
    assert problem is not None
    assert problem.message == "Failed to pull image: not found"
    assert problem.grace < GRACE_SECONDS["ImagePullBackOff"], "no second attempt helps"


def test_pod_without_a_node_is_unschedulable_unless_it_is_gated() -> None:
    found = pod(PodScheduled="False")
    problem = diagnose(found, [])
    assert problem is not None
    assert problem.reason == "Unschedulable"
    found["status"]["conditions"][0]["reason"] = "SchedulingGated"
    assert diagnose(found, []) is None


@pytest.mark.parametrize(("mounted", "is_problem"), [("False", True), ("True", False)])
def test_failed_mount_is_a_problem_until_a_later_one_succeeds(mounted: str, is_problem: bool) -> None:
    found = pod(waiting("ContainerCreating"), Ready="False", PodReadyToStartContainers=mounted)
    assert (diagnose(found, [event("FailedMount", "no such Secret")]) is not None) is is_problem


def test_problem_reads_as_object_reason_message_and_fix() -> None:
    assert str(PodProblem("Reason", "pod a", "message", "fix")) == "pod a: Reason: message (fix)"
    assert str(PodProblem("Reason", "pod a", "message")) == "pod a: Reason: message"


def test_diagnosis_imports_nothing_of_the_project() -> None:
    tree = ast.parse((ROOT / "image/broker/diagnosis.py").read_text())
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert relative == []
