"""Checks of the sources: `python -m ci.lint [STEP ...]`; without a step, all of them.

`make lint` and the pre-commit hooks both run this, so that there is one list. The tools come from uv.lock, and two of
them from Go modules, which are compiled into the cache folder at the first use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import UserError
from common.paths import REPO
from local.go_binaries import GoModule, build

Command = list[str]

ACTIONLINT = GoModule(REPO / "tests" / "lint" / "actionlint", ("github.com/rhysd/actionlint/cmd/actionlint",))
# The last major version that compiles without a C compiler.
VALE = GoModule(REPO / "tests" / "lint" / "vale", ("github.com/errata-ai/vale/v2/cmd/vale",))

PROSE = (
    "*.md",
    "*.Rmd",
    "bench/*.py",
    "ci/*.py",
    "cli/*.py",
    "common/*.py",
    "components/*.py",
    "image/*.py",
    "local/*.py",
    "policy/*.py",
    "tests/broker/*.py",
    "tests/browser/*.py",
    "tests/chart/*.py",
    "tests/e2e/*.py",
    "tests/unit/*.py",
    "tests/vm/*.py",
)
"""Pages, docstrings and comments that vale checks against the styles of .vale."""

GENERATED = ("docs/settings.md",)


def tracked_files(repo: Path, *patterns: str) -> list[str]:
    """Return the repository's files that match the patterns, in the index or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=repo, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted({name for name in listed.stdout.split("\0") if name and (repo / name).is_file()})


def shell_scripts(repo: Path) -> list[str]:
    """Return the files that a Bourne shell runs, by their ending or their first line."""
    return [name for name in tracked_files(repo) if name.endswith(".sh") or _is_shell(repo / name)]


def _is_shell(file: Path) -> bool:
    with file.open("rb") as opened:
        first = opened.readline(80)
    return first.startswith(b"#!") and first.split(b"/")[-1].split()[-1] in (b"sh", b"bash", b"dash")


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _python() -> list[Command]:
    ruff = _program("ruff")
    return [[ruff, "check", "."], [ruff, "format", "--check", "."], [_program("mypy"), "."]]


def _imports() -> list[Command]:
    return [[_program("lint-imports"), "--no-logo"]]


def _spelling() -> list[Command]:
    return [[_program("codespell"), *tracked_files(REPO)]]


def _prose() -> list[Command]:
    pages = [name for name in tracked_files(REPO, *PROSE) if name not in GENERATED]
    return [[str(build(VALE) / "vale"), "--no-wrap", *pages]]


def _workflows() -> list[Command]:
    shellcheck = ["-shellcheck", _program("shellcheck"), "-pyflakes", ""]
    return [
        [str(build(ACTIONLINT) / "actionlint"), *shellcheck],
        # Offline: what asks GitHub about each action would make the outcome depend on the day.
        [_program("zizmor"), "--offline", "--quiet", "--persona", "pedantic", ".github"],
    ]


def _shell() -> list[Command]:
    return [[_program("shellcheck"), "--external-sources", *shell_scripts(REPO)]]


STEPS: dict[str, Callable[[], list[Command]]] = {
    "python": _python,
    "imports": _imports,
    "spelling": _spelling,
    "shell": _shell,
    "workflows": _workflows,
    "prose": _prose,
}


def run(commands: Sequence[Command]) -> list[str]:
    """Run each command in the repository and return the names of the programs that complained."""
    # import-linter imports the packages from the current folder, which a program of .venv/bin does not look into.
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return [
        Path(command[0]).name
        for command in commands
        if subprocess.run(command, cwd=REPO, env=environment, check=False).returncode != 0
    ]


def main(names: Sequence[str]) -> int:
    """Return 0 where every chosen step is clean, else 1; every step runs, whatever the one before it found."""
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        print(f"error: no step {', '.join(unknown)}. Steps: {', '.join(STEPS)}.", file=sys.stderr)
        return 2
    failed: list[str] = []
    for name in names or STEPS:
        started = time.monotonic()
        try:
            complaints = run(STEPS[name]())
        except UserError as error:
            complaints = [str(error)]
        print(f"{name}: {'; '.join(complaints) or 'clean'} ({time.monotonic() - started:.1f} s)", flush=True)
        failed += [name] if complaints else []
    if failed:
        print(f"error: not clean: {', '.join(failed)}. One of them again: make lint STEP={failed[0]}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
