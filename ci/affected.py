"""Stacks whose inputs a change touches, as a matrix for GitHub Actions: `python -m ci.affected BASE HEAD`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from components.clouds import CLOUDS

PROJECT = "future-kubernetes"
LOCAL_STACK = "dev"

PROGRAM_FILES = ("__main__.py", "Pulumi.yaml", "pyproject.toml", "uv.lock")
PROGRAM_FOLDERS = ("chart", "common", "components", "policy")
CLOUD_FOLDERS = {
    name: "/".join(cloud.component.partition(":")[0].split(".")[:-1]) + "/" for name, cloud in CLOUDS.items()
}
"""Folder of each cloud by the setting `cloud`. import-linter holds that no cloud imports another."""


@dataclass(frozen=True)
class Stack:
    """A stack that the repository has a file of. builds_image: whether `pulumi up` builds its image."""

    name: str
    cloud: str
    builds_image: bool

    @classmethod
    def read(cls, file: Path) -> Stack:
        """Return the stack of a file `Pulumi.NAME.yaml`."""
        config = (yaml.safe_load(file.read_text()) or {}).get("config") or {}
        name = file.name.removeprefix("Pulumi.").removesuffix(".yaml")
        image = config.get(f"{PROJECT}:image")
        return cls(name, str(config.get(f"{PROJECT}:cloud", "")), builds_image=not image)

    def is_touched_by(self, path: str) -> bool:
        """Return whether a file decides what this stack is made of."""
        if path == f"Pulumi.{self.name}.yaml" or path in PROGRAM_FILES:
            return True
        if path.startswith(tuple(CLOUD_FOLDERS.values())) and self.cloud in CLOUD_FOLDERS:
            return path.startswith(CLOUD_FOLDERS[self.cloud])
        return path.startswith(tuple(f"{folder}/" for folder in PROGRAM_FOLDERS)) or (
            self.builds_image and path.startswith("image/")
        )


def stacks(repo: Path) -> list[Stack]:
    """Return the repository's stacks by name, without the one of `make up`."""
    found = (Stack.read(file) for file in sorted(repo.glob("Pulumi.*.yaml")))
    return [stack for stack in found if stack.name != LOCAL_STACK]


def changed_files(repo: Path, base: str, head: str) -> list[str] | None:
    """Return the files that `head` changes over its merge base with `base`; None where git knows no such base.

    A renamed file counts at both of its paths. After a forced push, or for a new branch, the base is not there.
    """
    command = ["git", "diff", "--name-only", "--no-renames", "-z", f"{base}...{head}", "--"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    return [name for name in done.stdout.split("\0") if name] if done.returncode == 0 else None


def affected(known: Iterable[Stack], changed: Sequence[str] | None) -> list[Stack]:
    """Return the stacks that the changed files touch; every stack where the change is not known."""
    if changed is None:
        return list(known)
    return [stack for stack in known if any(stack.is_touched_by(path) for path in changed)]


def matrix(touched: Iterable[Stack], extras: Container[str]) -> list[dict[str, str]]:
    """Return the entries of a job's `strategy.matrix.include`, with the extra that holds each cloud's SDK."""
    return [{"stack": stack.name, "extra": stack.cloud if stack.cloud in extras else ""} for stack in touched]


def write_matrix(repo: Path, chosen: Iterable[Stack]) -> None:
    """Write the matrix of these stacks to the step's output `stacks`, and to the screen."""
    extras = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    entries = json.dumps(matrix(chosen, extras))
    print(f"stacks={entries}")
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a") as file:
            file.write(f"stacks={entries}\n")


def main(arguments: Sequence[str]) -> int:
    """Write `stacks` to the step's outputs, and to the screen what it is."""
    base, head = arguments
    repo = Path.cwd()
    write_matrix(repo, affected(stacks(repo), changed_files(repo, base, head)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
