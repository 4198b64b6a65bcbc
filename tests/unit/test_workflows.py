"""The workflows: least permissions, pinned actions, nothing secret for a fork. actionlint and zizmor do the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.cloud_mocks import ROOT

FILES = sorted((ROOT / ".github").rglob("*.yml"))
WORKFLOWS: dict[str, dict[Any, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
OWN_BRANCH = "github.event.pull_request.head.repo.full_name == github.repository"


def jobs(workflow: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = WORKFLOWS[workflow]["jobs"]
    return found


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_has_no_default_permissions_and_jobs_end_by_themselves(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {}
    for job in jobs(name).values():
        assert job["timeout-minutes"] <= 180
        assert job["permissions"]["contents"] == "read"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_workflow_has_lasting_secrets_or_gives_forks_rights(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    assert "secrets." not in text
    # YAML 1.1 reads the key `on` as true.
    assert not {"pull_request_target", "workflow_run"} & set(WORKFLOWS[name][True])


def test_what_a_fork_starts_can_neither_log_in_nor_write() -> None:
    for name in ("test", "preview"):
        for key, job in jobs(name).items():
            if OWN_BRANCH not in job.get("if", ""):
                assert job["permissions"] == {"contents": "read"}, key
                assert "environment" not in job, key
    assert {key for key, job in jobs("preview").items() if OWN_BRANCH in job.get("if", "")} == {"stack", "comment"}


def test_what_comments_runs_no_code_of_the_pull_request() -> None:
    job = jobs("preview")["comment"]
    checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["ref"] for step in checkouts] == ["${{ github.event.pull_request.base.sha }}"]
    assert "id-token" not in job["permissions"]
    for key in ("stack", "dev", "affected"):
        assert "pull-requests" not in jobs("preview")[key]["permissions"]


def test_deployment_waits_for_approval_and_the_one_before() -> None:
    assert WORKFLOWS["deploy"][True] == {"push": {"branches": ["main"]}}
    job = jobs("deploy")["stack"]
    assert job["environment"] == "deploy"
    assert job["concurrency"] == {"group": "deploy-${{ matrix.stack }}", "cancel-in-progress": False}


def test_stack_ends_only_by_permission_and_beside_no_deployment() -> None:
    assert set(WORKFLOWS["expire"][True]) == {"schedule", "workflow_dispatch"}
    assert jobs("expire")["ending"]["if"] == "vars.PULUMI_EXPIRE == 'true'"
    job = jobs("expire")["stack"]
    assert job["environment"] == "expire"
    assert job["concurrency"] == jobs("deploy")["stack"]["concurrency"]
    for name, workflow in WORKFLOWS.items():
        runs = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
        assert any("ci.expire" in run for run in runs) == (name == "expire"), name
        assert not any("pulumi destroy" in run for run in runs), name


def test_only_a_deployment_updates_a_stack() -> None:
    for name, workflow in WORKFLOWS.items():
        runs = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
        assert any("deploy.sh" in run for run in runs) == (name == "deploy"), name
        assert not any("pulumi up" in run for run in runs), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_action_is_pinned_to_a_commit_naming_its_version(path: Path) -> None:
    used = [line for line in path.read_text().splitlines() if re.search(r"\buses: ", line)]
    for line in used:
        assert re.search(r"uses: (\./\.github/|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+\b)", line), line


def test_no_checkout_leaves_its_token_behind() -> None:
    for workflow in WORKFLOWS.values():
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False


def test_every_script_that_a_workflow_runs_exists() -> None:
    text = "".join(path.read_text() for path in FILES)
    scripts = set(re.findall(r"\bci/[\w-]+\.(?:sh|py)\b", text))
    modules = {f"ci/{name}.py" for name in re.findall(r"-m ci\.(\w+)", text)}
    assert len(scripts | modules) >= 5
    assert [path for path in scripts | modules if not (ROOT / path).is_file()] == []
    targets = set(re.findall(r"\bmake ([\w-]+)", text))
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets <= made
