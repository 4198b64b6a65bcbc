"""The workflow that docs/ci-preview.md offers: least rights, pinned actions, nothing for forks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "ci-preview.md").read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1])  # type: ignore[index]
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]


def test_it_never_runs_with_rights_on_a_forks_code() -> None:
    # YAML 1.1 reads the key `on` as true.
    assert set(WORKFLOW[True]) == {"pull_request"}
    for job in JOBS.values():
        assert job["if"] == "github.event.pull_request.head.repo.full_name == github.repository"


def test_it_may_do_nothing_but_read_the_code_name_itself_and_comment() -> None:
    assert WORKFLOW["permissions"] == {}
    for job in JOBS.values():
        assert job["permissions"] == {"contents": "read", "id-token": "write", "pull-requests": "write"}


def test_it_holds_no_lasting_secret() -> None:
    assert "secrets." not in yaml.safe_dump(WORKFLOW)
    checkout = next(step for step in STEPS if step.get("uses", "").startswith("actions/checkout@"))
    assert checkout["with"]["persist-credentials"] is False


def test_it_previews_and_nothing_else_against_the_policy_pack() -> None:
    previews = [step["with"] for step in STEPS if step.get("uses", "").startswith("pulumi/actions@")]
    assert len(previews) == len(JOBS)
    for preview in previews:
        assert preview["command"] == "preview"
        assert preview["policyPacks"] == "policy"


@pytest.mark.parametrize("used", sorted({step["uses"] for step in STEPS if "uses" in step}))
def test_each_action_is_pinned_to_a_commit(used: str) -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", used)
