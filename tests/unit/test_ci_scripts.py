"""The shell of the workflows, run for real with programs of the test's own for root, make and uv."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.cloud_mocks import ROOT
from tests.unit.test_ci_affected import Repository

SCRIPTS = ROOT / "ci"


class Programs:
    """Programs on PATH that note how and where they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "calls"
        self.log.touch()

    def add(self, name: str, then: str = "") -> None:
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $* in $PWD" >> {self.log}\n{then}\n')
        program.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}", **more}

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    folder = tmp_path / "programs"
    folder.mkdir()
    return Programs(folder)


@pytest.mark.parametrize("status", [0, 3])
def test_as_root_hands_the_cache_back_whatever_the_command_returns(
    programs: Programs, tmp_path: Path, status: int
) -> None:
    # `sudo --preserve-env=... env ...` runs the command; `sudo chown` is only noted.
    programs.add("sudo", 'case $1 in --preserve-env*) shift; exec "$@";; esac')
    cache = tmp_path / "cache"
    done = subprocess.run(
        ["bash", str(SCRIPTS / "as-root.sh"), "sh", "-c", f"echo ran in $FUTURE_KUBERNETES_CACHE; exit {status}"],
        cwd=tmp_path, env=programs.environment(FUTURE_KUBERNETES_CACHE=str(cache)), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert done.stdout == f"ran in {cache}\n"
    assert cache.is_dir()
    assert f"sudo chown -R {os.getuid()}:{os.getgid()} {cache} . in {tmp_path}" in programs.calls()


def test_root_without_a_cache_folder_names_the_missing_variable(programs: Programs) -> None:
    programs.add("sudo")
    environment = programs.environment()
    environment.pop("FUTURE_KUBERNETES_CACHE", None)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "as-root.sh"), "true"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "FUTURE_KUBERNETES_CACHE" in done.stderr
    assert programs.calls() == []


@pytest.mark.parametrize("outcome", [0, 1])
def test_dev_is_made_from_base_and_previewed_from_the_change(programs: Programs, tmp_path: Path, outcome: int) -> None:
    (tmp_path / "repository").mkdir()
    repository = Repository(tmp_path / "repository")
    repository.write("new.txt")
    repository.commit()
    # `make -C BASE up`: the base's checkout is whole, and lacks what the change adds.
    programs.add("make", '[ "$1" != -C ] || { [ -f "$2/pyproject.toml" ] && [ ! -e "$2/new.txt" ]; } || exit 9')
    programs.add("uv")
    (repository.folder / ".venv/bin").mkdir(parents=True)
    python = repository.folder / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\necho "python $*" >> {programs.log}\nexit {outcome}\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPTS / "preview-dev.sh"), repository.base, "reports"],
        cwd=repository.folder, env=programs.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == outcome, done.stderr
    calls = programs.calls()
    assert calls[0].startswith("make -C ")
    assert " up in " in calls[0]
    assert calls[-1] == "python -m ci.preview dev reports"
    assert len(repository.git("worktree", "list").splitlines()) == 1, "the base's checkout is removed"
