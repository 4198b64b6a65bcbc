"""Refuses machine types that an account on AWS's free plan cannot launch, before anything is created."""

from __future__ import annotations

import json
import shutil
import subprocess

import pulumi
import pulumi_aws as aws

from components.clouds.aws.location import Location
from components.clouds.aws.machines import Ec2Machine
from components.clouds.checks import CloudError, ask_or_none, problem, say_unchecked

QUESTION = ("freetier", "get-account-plan-state", "--region", "us-east-1", "--output", "json")
"""Arguments of the AWS CLI. The provider has no data source for the account's plan."""

UPGRADE = "aws freetier upgrade-account-plan --region us-east-1 --account-plan-type PAID"
ANSWER_SECONDS = 20


def check_free_plan(location: Location, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError where the account is on the free plan and a machine type is not part of the plan.

    EC2 refuses such a type when network and control plane exist. Where AWS does not name the plan, the check says so.
    """
    refused = paid_types(location)
    if not refused or account_plan() != "FREE":
        return
    eligible = eligible_types(lookup)
    roomy = next((name for name in eligible if name.endswith(".large") and name.startswith("m")), "m7i-flex.large")
    key, machine = refused[0]
    raise CloudError(
        problem(
            f"{key} has {machine.name}, and this account is on AWS's free plan, which cannot launch it",
            f"types that the plan has here: {', '.join(eligible) or roomy}; docs/eks.md has a stack that fits",
            f"pulumi config set {key} {roomy}, or pay for what you use: {UPGRADE}",
        )
    )


def paid_types(location: Location) -> list[tuple[str, Ec2Machine]]:
    """The stack's machine types that are not part of the free plan, each with its setting."""
    first, *others = location.worker_machines
    keyed = [
        ("machineType", first),
        ("systemMachineType", location.system_machine),
        *(("otherMachineTypes", machine) for machine in others),
    ]
    return [(key, machine) for key, machine in keyed if not machine.in_free_plan]


def eligible_types(lookup: pulumi.InvokeOptions) -> list[str]:
    """The x86-64 machine types of the free plan in this region, sorted. Empty where the lookup is refused."""
    wanted = {"free-tier-eligible": "true", "processor-info.supported-architecture": "x86_64"}
    filters = [aws.ec2.GetInstanceTypesFilterArgs(name=name, values=[value]) for name, value in wanted.items()]
    found = ask_or_none(lambda: aws.ec2.get_instance_types(filters=filters, opts=lookup))
    return sorted(found.instance_types) if found else []


def account_plan() -> str | None:
    """The account's plan, `FREE` or `PAID`. None where the AWS CLI gives no answer, as an old release of it."""
    command = shutil.which("aws")
    if not command:
        return None
    try:
        done = subprocess.run([command, *QUESTION], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True)
        plan = json.loads(done.stdout)["accountPlanType"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        say_unchecked("whether the account is on AWS's free plan, which has few machine types", error)
        return None
    return str(plan)
