"""Valid values reach the program as they were given, and what only looks like a value is refused."""

from __future__ import annotations

from typing import Any

import pytest

from components.clouds import MODELS
from components.settings.errors import SettingsError
from components.settings.loading import parse
from components.settings.names import dns_name, short_name
from tests.unit.existing_clusters import CAMPUS, KUBECONFIG, LOCAL, nodes, program

__all__ = ["nodes"]
EKS = {"cloud": "eks", "region": "us-west-2", "authorizedNetworks": "203.0.113.0/24"}
SECRETS = frozenset({"password", "rRepository", "kubeconfigText"})


@pytest.mark.parametrize(
    ("base", "key", "field", "value"),
    [
        (LOCAL, "password", "password", "correct horse"),
        (CAMPUS, "kubeconfigText", "kubeconfig_text", KUBECONFIG),
        (EKS, "rRepository", "r_repository", "https://me:token@packages.example.org/cran"),
    ],
)
def test_a_secret_is_kept_as_it_was_given(base: dict[str, Any], key: str, field: str, value: str) -> None:
    settings = parse({**base, key: value}, MODELS, stack="dev", secrets=SECRETS)
    assert getattr(settings, field).get_secret_value() == value


@pytest.mark.usefixtures("nodes")
def test_password_that_is_set_is_the_ides_without_drawing_one() -> None:
    recording = program({**LOCAL, "password": "correct horse"})
    assert recording.outputs["password"][0] == "correct horse"
    assert [drawn.name for drawn in recording.all("RandomPassword")] == ["future-dev-token"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("environment", '{"PGHOST": "db.example.org"'),
        ("labels", '{"team": "statistics"'),
        ("chartValues", '{"worker": '),
        ("egress", '["10.20.0.7:5432"'),
        ("workerCpu", True),
        ("workerMemoryGiB", "nan"),
        ("schedulerMemoryGiB", "inf"),
    ],
)
def test_values_of_a_wrong_type_are_refused_instead_of_ignored(key: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        parse({**LOCAL, key: value}, MODELS, stack="dev")
    assert [problem.key for problem in caught.value.problems] == [key]


def test_names_are_those_of_running_stacks() -> None:
    assert [dns_name(stack) for stack in ("My_Team.2", "_a__b-")] == ["my-team-2", "a-b"]
    assert short_name("future-a-long-name-of-a-stack", 20) == "future-a-long-953d0c"
    assert short_name("future-a-name-that-is-cut", 14) == "future-e78be4"


def test_a_stacks_name_may_be_one_letter() -> None:
    assert parse(LOCAL, MODELS, stack="r").name == "future-r"
