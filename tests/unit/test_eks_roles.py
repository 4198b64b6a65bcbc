"""EKS under mocks: roles in the settings that do not exist, or that the cluster's creator has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.aws_cloud import (
    ANSWERS,
    STATISTICS,
    eks,
    refuse,
    refused,
)
from tests.unit.cloud_mocks import unchecked

pytestmark = pytest.mark.usefixtures("installed_tools")


MISSING = "arn:aws:iam::123456789012:role/missing"


@pytest.mark.parametrize("key", ["teamRoles", "adminRoles"])
def test_roles_that_do_not_exist_are_refused(key: str) -> None:
    message = refused({key: f"{MISSING},{STATISTICS}"})
    assert f"{key} has {MISSING}, which does not exist" in message
    assert f"pulumi config set {key} {STATISTICS}" in message
    assert f"pulumi config rm {key}" in refused({key: MISSING})
    pathless = "arn:aws:iam::123456789012:role/engineer"
    answers = {TAGGED: refuse("no")}  # so that the caller's own role is accepted
    assert f"pulumi config set {key} {ENGINEER}" in refused({key: pathless}, answers)


def test_roles_that_cannot_be_looked_up_are_accepted() -> None:
    denied = {"aws:iam/getRole:getRole": refuse("AccessDenied: not authorized to perform: iam:GetRole")}
    done = eks({"teamRoles": MISSING}, denied)
    assert done.all("AccessEntry")
    assert "not checked: whether there is a role missing" in unchecked(done)
    assert eks({"teamRoles": MISSING.replace("123456789012", "999999999999")}).all("AccessEntry")


ENGINEER = "arn:aws:iam::123456789012:role/staff/engineer"
"""The role of who asks in these tests, with its path."""


TAGGED = "aws:resourcegroupstaggingapi/getResources:getResources"


@pytest.mark.parametrize("key", ["teamRoles", "adminRoles"])
def test_creators_role_is_refused_in_team_and_admin_roles(key: str) -> None:
    message = refused({key: f"{STATISTICS},{ENGINEER}"})
    assert f"{key} has {ENGINEER}, the role that you create the cluster with" in message
    assert f"pulumi config set {key} {STATISTICS}" in message
    assert f"pulumi config rm {key}" in refused({key: ENGINEER})


@pytest.mark.parametrize(
    "answer",
    [lambda _args: {"id": "r", "resourceTagMappingLists": [{"resourceArn": "arn:aws:eks:::cluster/x"}]}, refuse("no")],
)
def test_callers_role_is_accepted_for_an_existing_cluster(answer: Any) -> None:
    asked: list[Any] = []

    def listed(args: Mapping[str, Any]) -> Any:
        asked.append(args)
        return answer(args)

    assert eks({"adminRoles": ENGINEER}, {TAGGED: listed}).all("AccessEntry")
    assert asked[0]["resourceTypeFilters"] == ["eks:cluster"]
    assert asked[0]["tagFilters"] == [{"key": "stack", "values": ["team"]}]


def test_creators_role_is_found_by_a_name_with_punctuation() -> None:
    caller = dict(ANSWERS["aws:index/getCallerIdentity:getCallerIdentity"]({}))
    caller["arn"] = "arn:aws:sts::123456789012:assumed-role/lab+r/me"
    answers = {"aws:index/getCallerIdentity:getCallerIdentity": lambda _args: caller}
    assert "the role that you create" in refused({"adminRoles": "arn:aws:iam::123456789012:role/lab+r"}, answers)


def test_similar_role_names_are_not_the_creators() -> None:
    others = "arn:aws:iam::999999999999:role/engineer,arn:aws:iam::123456789012:role/lead-engineer"
    assert len(eks({"adminRoles": others}).all("AccessEntry")) == 2
