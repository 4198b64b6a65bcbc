"""Stacks that a change touches, asked of real git repositories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ci.affected import affected, changed_files, matrix, stacks
from components.clouds import CLOUDS
from tests.unit.cloud_mocks import ROOT

STACKS = {
    "Pulumi.dev.yaml": "cloud: local",
    "Pulumi.gke-team.yaml": "cloud: gke",
    "Pulumi.eks-team.yaml": "cloud: eks",
    "Pulumi.campus.yaml": "cloud: kubeconfig\n  future-kubernetes:image: registry.example.org/r:1",
}
ALL = ["campus", "eks-team", "gke-team"]


class Repository:
    """A git repository with the four kinds of stacks and one commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main")
        for name, config in STACKS.items():
            self.write(name, f"config:\n  future-kubernetes:{config}\n")
        self.write("pyproject.toml", (ROOT / "pyproject.toml").read_text())
        self.base = self.commit()

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, path: str, text: str = "changed\n") -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=x")
        return self.git("rev-parse", "HEAD")

    def affected(self, base: str | None = None) -> list[str]:
        changed = changed_files(self.folder, base or self.base, "HEAD")
        return [stack.name for stack in affected(stacks(self.folder), changed)]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.mark.parametrize(
    ("path", "touched"),
    [
        ("components/release/release.py", ALL),
        ("components/clouds/base.py", ALL),
        ("components/clouds/google/cluster.py", ["gke-team"]),
        ("components/clouds/aws/network.py", ["eks-team"]),
        ("components/clouds/existing/cluster.py", ["campus"]),
        ("common/paths.py", ALL),
        ("chart/templates/rbac.yaml", ALL),
        ("policy/rules.py", ALL),
        ("__main__.py", ALL),
        ("Pulumi.yaml", ALL),
        ("uv.lock", ALL),
        ("image/Dockerfile", ["eks-team", "gke-team"]),
        ("Pulumi.eks-team.yaml", ["eks-team"]),
        ("Pulumi.new-team.yaml", ["new-team"]),
        ("Pulumi.dev.yaml", []),
        ("docs/gke.md", []),
        ("tests/unit/test_gke.py", []),
        ("local/cluster.py", []),
        ("README.md", []),
        ("components.md", []),
    ],
)
def test_changed_file_touches_the_stacks_that_depend_on_it(
    repository: Repository, path: str, touched: list[str]
) -> None:
    cloud = f"config:\n  future-kubernetes:{STACKS.get(path, 'cloud: gke')}\n# changed\n"
    repository.write(path, cloud if path.startswith("Pulumi.") and path != "Pulumi.yaml" else "changed\n")
    repository.commit()
    assert repository.affected() == touched


def test_a_file_that_moves_between_clouds_touches_both(repository: Repository) -> None:
    repository.write("components/clouds/google/x.py", "a long enough line to be found again\n" * 9)
    base = repository.commit()
    repository.git("mv", "components/clouds/google/x.py", "components/clouds/x.py")
    (repository.folder / "components/clouds/aws").mkdir()
    repository.git("mv", "components/clouds/x.py", "components/clouds/aws/x.py")
    repository.commit()
    assert repository.affected(base) == ["eks-team", "gke-team"]


def test_what_the_base_branch_got_meanwhile_is_no_change(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "-b", "feature")
    repository.write(
        "Pulumi.eks-team.yaml", "config:\n  future-kubernetes:cloud: eks\n  future-kubernetes:workers: 2\n"
    )
    repository.commit()
    repository.git("checkout", "--quiet", "main")
    repository.write("chart/values.yaml")
    base = repository.commit()
    repository.git("checkout", "--quiet", "feature")
    assert repository.affected(base) == ["eks-team"]


def test_a_base_that_is_gone_touches_every_stack(repository: Repository) -> None:
    assert repository.affected("0" * 40) == ALL


def test_a_removed_stack_is_not_previewed(repository: Repository) -> None:
    (repository.folder / "Pulumi.campus.yaml").unlink()
    repository.commit()
    assert repository.affected() == []


def test_a_name_with_a_newline_is_one_file(repository: Repository) -> None:
    repository.write("docs/a\nPulumi.yaml")
    repository.commit()
    assert repository.affected() == []


def test_every_cloud_has_an_existing_folder_and_own_sdk(repository: Repository) -> None:
    from ci.affected import CLOUD_FOLDERS

    assert set(CLOUD_FOLDERS) == set(CLOUDS)
    assert all((ROOT / folder).is_dir() for folder in CLOUD_FOLDERS.values())
    entries = {entry["stack"]: entry["extra"] for entry in matrix(stacks(repository.folder), {"gke", "eks"})}
    assert entries == {"campus": "", "eks-team": "eks", "gke-team": "gke"}


def test_the_command_writes_the_matrix_to_the_steps_outputs(repository: Repository, tmp_path: Path) -> None:
    repository.write("components/clouds/aws/network.py")
    repository.commit()
    output = tmp_path.parent / f"{tmp_path.name}-output"
    environment = {**os.environ, "GITHUB_OUTPUT": str(output), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ci.affected", repository.base, "HEAD"]
    subprocess.run(command, cwd=repository.folder, env=environment, check=True)
    name, _, value = output.read_text().strip().partition("=")
    assert name == "stacks"
    assert json.loads(value) == [{"stack": "eks-team", "extra": "eks"}]
