"""Smoke test of a stack: a lost connection is not a failed computation."""

from __future__ import annotations

import json
import subprocess
from typing import cast

import pytest

from common.errors import UserError
from local import smoke_test
from local.cluster import Node

LOST = "kubectl failed with status 1: error from error stream: websocket: close 1006 (abnormal closure): unexpected EOF"


class FakeNode:
    """A node whose `kubectl exec` fails with the given errors, one after the other, and then has a result."""

    def __init__(self, *errors: str, paused: bool = False) -> None:
        self.errors, self.ran, self.awaited = list(errors), 0, False
        self.scheduler = {"metadata": {"name": "dev-scheduler"}, "spec": {"paused": True} if paused else {}}

    def kubectl(self, *arguments: str, **_options: object) -> subprocess.CompletedProcess[str]:
        if "exec" not in arguments:
            self.awaited |= "rollout" in arguments
            return subprocess.CompletedProcess(arguments, 0, json.dumps({"items": [self.scheduler]}), "")
        assert "deployment/dev-scheduler" in arguments
        self.ran += 1
        if self.errors:
            raise UserError(self.errors.pop(0))
        return subprocess.CompletedProcess(arguments, 0, smoke_test.RESULT_MARK + json.dumps({"pods": ["a", "b"]}), "")


def run(node: FakeNode) -> dict[str, object]:
    return smoke_test.run(cast(Node, node), {"workers": 2, "namespace": "dev"})


def test_computation_whose_connection_was_lost_runs_again() -> None:
    node = FakeNode(LOST, LOST)
    assert run(node)["pods"] == ["a", "b"]
    assert node.ran == 3


def test_connection_that_is_lost_each_time_ends_with_its_error() -> None:
    with pytest.raises(UserError, match="abnormal closure"):
        run(FakeNode(LOST, LOST, LOST))


def test_error_of_r_ends_the_test_at_once() -> None:
    node = FakeNode("kubectl failed with status 1: Error: the same seed gave other numbers")
    with pytest.raises(UserError, match="the same seed"):
        run(node)
    assert node.ran == 1


@pytest.mark.parametrize("paused", [False, True])
def test_only_rollout_that_can_end_is_awaited(paused: bool) -> None:
    node = FakeNode(paused=paused)
    run(node)
    assert node.awaited is not paused
