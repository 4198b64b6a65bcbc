"""EKS under mocks: accounts on AWS's free plan, which the AWS CLI names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.aws_cloud import eks, refuse, refused
from tests.unit.cloud_mocks import ROOT, Recording, unchecked

TAGGED = "aws:resourcegroupstaggingapi/getResources:getResources"
Plan = Callable[[str], Path]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    """Makes an AWS CLI that runs a script, and returns the file in which it notes its arguments."""

    def make(script: str) -> Path:
        command = tmp_path / "aws"
        command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{script}\n')
        command.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda _name: str(command))
        return tmp_path / "asked"

    return make


FREE = """echo '{"accountId": "123456789012", "accountPlanType": "FREE", "accountPlanStatus": "ACTIVE"}'"""
ANEW: dict[str, Any] = {TAGGED: lambda _args: {"id": "r", "resourceTagMappingLists": []}}
"""Without a cache of runs, which does not know of the CLI."""


def made(config: dict[str, Any]) -> Recording:
    return eks(config, ANEW)


def example() -> dict[str, Any]:
    """The settings of the smallest stack in docs/eks.md."""
    page = (ROOT / "docs" / "eks.md").read_text().split("### The free plan")[1].split("```")[1]
    return {key: yaml.safe_load(value) for key, value in re.findall(r"^pulumi config set (\w+) (\S+)", page, re.M)}


def test_types_outside_of_the_free_plan_are_refused(plan: Plan) -> None:
    asked = plan(FREE)
    message = refused({}, ANEW)
    assert "machineType has m6i.xlarge, and this account is on AWS's free plan" in message
    assert "types that the plan has here: m7i-flex.large, t3.small;" in message, "not t4g, which is ARM"
    assert "pulumi config set machineType m7i-flex.large" in message
    assert "aws freetier upgrade-account-plan" in message
    assert asked.read_text().strip() == "freetier get-account-plan-state --region us-east-1 --output json"
    message = refused({"machineType": "m7i-flex.large"}, ANEW)
    assert "systemMachineType has m6i.large" in message
    both = {"machineType": "m7i-flex.large", "systemMachineType": "m7i-flex.large"}
    assert "otherMachineTypes has m6i.large" in refused({**both, "otherMachineTypes": "m6i.large"}, ANEW)


def test_the_pages_smallest_stack_fits_the_free_plan(plan: Plan) -> None:
    plan(FREE)
    config = example()
    assert {"machineType", "systemMachineType", "workers"} <= set(config)
    done = made(config)
    types = [name for group in done.all("nodeGroup:NodeGroup") for name in group.inputs["instanceTypes"]]
    assert set(types) == {"m7i-flex.large"}
    assert done.outputs["nodes"][0].startswith("1 x m7i-flex.large, 2 workers each")


@pytest.mark.parametrize(
    "script",
    [
        FREE.replace("FREE", "PAID"),
        "echo \"argument command: Invalid choice: 'freetier'\" >&2; exit 252",
        "echo 'AccessDeniedException' >&2; exit 254",
        "echo nonsense",
        "echo '{}'",
        "echo '[]'",
    ],
)
def test_other_plans_and_no_answer_stop_nothing(plan: Plan, script: str) -> None:
    asked = plan(script)
    done = made({})
    assert done.all("nodeGroup:NodeGroup")
    assert ("whether the account is on AWS's free plan" in unchecked(done)) == ("accountPlanType" not in script)
    assert asked.exists()


def test_plan_is_asked_only_for_new_clusters_with_other_types(plan: Plan) -> None:
    asked = plan(FREE)
    arn = "arn:aws:eks:us-west-2:123456789012:cluster/future-team-1"
    existing = {TAGGED: lambda _args: {"id": "r", "resourceTagMappingLists": [{"resourceArn": arn}]}}
    assert eks({}, existing).all("nodeGroup:NodeGroup")
    hidden = eks({}, {TAGGED: refuse("AccessDenied")})
    assert hidden.all("nodeGroup:NodeGroup")
    assert "whether the account's plan has the machine types" in unchecked(hidden)
    assert made({"machineType": "m7i-flex.large", "systemMachineType": "m7i-flex.large"}).all("nodeGroup:NodeGroup")
    assert not asked.exists(), "asking takes a second"
