"""Commands of AWS's command line on the pages, against the descriptions that botocore has.

test_aws_models.py checks that each operation exists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jmespath
import pytest
from botocore import xform_name
from botocore.model import Shape

from tests.unit.aws_cloud import eks
from tests.unit.page_commands import on_pages, options
from tests.unit.test_aws_models import OF_THE_CLI, operation, service


def aws_calls() -> list[tuple[str, str, dict[str, str]]]:
    """Service, operation and options of each call of the AWS CLI that is an operation."""
    found = []
    for call in on_pages("aws"):
        if f"aws {call[0]} {call[1]}" not in OF_THE_CLI:
            by_command = {xform_name(each, "-"): each for each in service(call[0]).operation_names}
            found.append((call[0], by_command[call[1]], options(call)))
    return found


def wrong_values(name: str, operation_name: str, given: Mapping[str, str]) -> list[str]:
    """Values that the operation does not take, and members that it requires and the command does not give."""
    shape: Any = operation(name, operation_name).input_shape
    members = {xform_name(member, "-"): each for member, each in shape.members.items()} if shape else {}
    wrong = [
        f"{operation_name} without --{xform_name(each, '-')}"
        for each in (shape.required_members if shape else ())
        if f"--{xform_name(each, '-')}" not in given
    ]
    for option, value in given.items():
        known = members.get(option[2:])
        if known is not None and not value.startswith("$"):
            wrong += list(unfit(operation_name + " " + option, known, value))
    return wrong


def unfit(where: str, shape: Shape, value: str) -> Iterator[str]:
    """Faults of a value, in the CLI's short form of structures (`Name=tag:stack,Values=eks-mine`)."""
    described: Any = shape
    if described.type_name == "list":
        entries = value.split(" ")
        for entry in entries:
            yield from unfit(where, described.member, entry)
    elif described.type_name == "structure":
        for key, text in (pair.partition("=")[::2] for pair in value.split(",")):
            if key not in described.members:
                yield f"{where}: no member {key}"
            else:
                yield from unfit(f"{where} {key}", described.members[key], text)
    elif described.type_name == "string" and described.enum and value not in described.enum:
        yield f"{where}: {value} is none of {described.enum}"
    elif described.type_name in ("integer", "long", "double", "float"):
        number = float(value)
        if not described.metadata.get("min", number) <= number <= described.metadata.get("max", number):
            yield f"{where}: {value} is out of bounds"


def test_values_in_commands_are_those_that_aws_takes() -> None:
    found = aws_calls()
    assert len(found) >= 25
    assert [fault for call in found for fault in wrong_values(*call)] == []


def test_a_value_that_aws_does_not_take_is_noticed() -> None:
    for name, operation_name, given in (
        ("ce", "UpdateCostAllocationTagsStatus", {"--cost-allocation-tags-status": "TagKey=stack,Status=On"}),
        ("ce", "UpdateCostAllocationTagsStatus", {"--cost-allocation-tags-status": "Tag=stack,Status=Active"}),
        ("eks", "DescribeClusterVersions", {"--version-status": "STANDARD"}),
        ("kms", "ScheduleKeyDeletion", {"--pending-window-in-days": "7"}),
        ("kms", "ScheduleKeyDeletion", {"--key-id": "$KEY_ID", "--pending-window-in-days": "700"}),
    ):
        assert len(wrong_values(name, operation_name, given)) == 1, given


def sample(shape: Any, name: str = "", depth: int = 0) -> Any:
    """An answer with every member that AWS describes."""
    if shape.type_name == "structure":
        return {key: sample(each, key, depth + 1) for key, each in shape.members.items()} if depth < 7 else {}
    if shape.type_name == "list":
        return [sample(shape.member, name, depth + 1)]
    if shape.type_name == "map":
        return {"key": sample(shape.value, name, depth + 1)}
    numbers = {"integer": 1, "long": 1, "double": 1.0, "float": 1.0, "boolean": True}
    return numbers.get(shape.type_name, f"future-eks-mine-{name}")


def holes(value: Any) -> bool:
    """True where a query found nothing in a part of a full answer."""
    if isinstance(value, dict):
        return any(holes(entry) for entry in value.values())
    if isinstance(value, list):
        return not value or any(holes(entry) for entry in value)
    return value is None


def queries() -> list[tuple[str, str, str]]:
    """Service, operation and query of each command on the pages that reads a part of its answer."""
    return [(name, verb, given["--query"]) for name, verb, given in aws_calls() if "--query" in given]


def test_queries_read_what_aws_answers() -> None:
    found = queries()
    assert len(found) >= 10
    for name, operation_name, query in found:
        answer = sample(operation(name, operation_name).output_shape)
        assert not holes(jmespath.search(query, answer)), f"{operation_name}: {query}"


def test_a_query_for_what_aws_does_not_answer_is_noticed() -> None:
    answer = sample(operation("ec2", "DescribeSnapshots").output_shape)
    assert holes(jmespath.search("sort_by(Snapshots,&StartTime)[].[SnapshotId,Size]", answer))
    assert holes(jmespath.search("Snapshot[].SnapshotId", answer))


@pytest.mark.usefixtures("installed_tools")
def test_cost_tags_that_the_page_activates_are_on_every_resource() -> None:
    (given,) = [given for _, verb, given in aws_calls() if verb == "UpdateCostAllocationTagsStatus"]
    activated = set(re.findall(r"TagKey=(\w+)", " ".join(given.values())))
    provider = eks({"labels": "team=statistics"}).one("pulumi:providers:aws", "-aws")
    assert "stack" in activated, "the budget counts by it"
    assert activated <= set(json.loads(provider.inputs["defaultTags"])["tags"])
