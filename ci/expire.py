"""Destroys stacks that have outlived their `ttlHours`.

`python -m ci.expire` writes the stacks that have the setting as a matrix for GitHub Actions. With a stack's name after
it, it destroys that one where its time is over. The time counts from the stack's oldest resource, so from the first
`pulumi up` after it was last destroyed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from ci.affected import PROJECT, Stack, stacks, write_matrix
from ci.preview import NO_STACK
from common.errors import UserError

ENVIRONMENT = {"PULUMI_SKIP_UPDATE_CHECK": "true", "PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL": "true"}


KEPT: Mapping[str, tuple[str, ...]] = {
    "aws:ebs/volume:Volume": ("finalSnapshot",),
    "gcp:compute/disk:Disk": ("createSnapshotBeforeDestroy",),
    "kubernetes:helm.sh/v3:Release": ("values", "scheduler", "keepHome"),
}
"""The input by which `pulumi destroy` keeps a home, by the type of the resource that has it."""


def configured(repo: Path, stack: str, key: str) -> Any:
    """Return a setting from a stack's file; None where it is not set."""
    config = (yaml.safe_load((repo / f"Pulumi.{stack}.yaml").read_text()) or {}).get("config") or {}
    return config.get(f"{PROJECT}:{key}")


def ttl_hours(repo: Path, stack: str) -> int:
    """Return the hours that a stack's file gives it; 0 for no end. Raises UserError for another value."""
    given = configured(repo, stack, "ttlHours") or 0
    text = str(given or 0).strip()
    if isinstance(given, bool) or not text.isdecimal():
        raise UserError(
            f"ttlHours of stack {stack} is {given!r}\n    allowed: a whole number of hours, 0 for no end\n"
            f"    fix: pulumi config set ttlHours 72 --stack {stack}"
        )
    return int(text)


def ending(repo: Path) -> list[Stack]:
    """Return the stacks that have a `ttlHours`."""
    return [stack for stack in stacks(repo) if ttl_hours(repo, stack.name)]


def born(state: Mapping[str, Any]) -> datetime | None:
    """Return when the oldest resource of an exported state was created; None for a stack without resources.

    Raises UserError where no resource has a time: then nothing says how old the stack is.
    """
    resources = (state.get("deployment") or {}).get("resources") or []
    times = [datetime.fromisoformat(each["created"]) for each in resources if each.get("created")]
    if resources and not times:
        raise UserError(
            "the state has no times of creation, so nothing is destroyed.\n    fix: pulumi destroy, by hand"
        )
    return min(times, default=None)


def keeps_home(state: Mapping[str, Any]) -> bool | None:
    """Return True if `pulumi destroy` of this state keeps the home; None where the state has no home.

    The state decides, and not the stack's file: a destroy reads no settings.
    """
    kept: bool | None = None
    for resource in (state.get("deployment") or {}).get("resources") or []:
        path = KEPT.get(resource.get("type", ""))
        if path:
            value: Any = resource.get("inputs")
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            kept = kept or value is True
    return kept


def pulumi(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the Pulumi CLI and return what it printed.

    Not by the Automation API: the state's times of creation are in `pulumi stack export` only, and an end of `destroy`
    is this program's own.
    """
    variables = {**os.environ, **ENVIRONMENT}
    return subprocess.run(["pulumi", *arguments], env=variables, capture_output=True, text=True, check=False)


def expire(repo: Path, stack: str, now: datetime) -> int:
    """Destroy a stack whose time is over, and return Pulumi's exit status; 0 where there is nothing to do."""
    hours = ttl_hours(repo, stack)
    if not hours:
        print(f"stack {stack} has no ttlHours: nothing to destroy")
        return 0
    exported = pulumi("stack", "export", "--stack", stack, "--non-interactive")
    if exported.returncode != 0:
        if NO_STACK in exported.stderr:
            print(f"the backend has no stack {stack}: nothing to destroy")
            return 0
        raise UserError(f"pulumi stack export failed: {exported.stderr.strip()[-800:]}")
    state = json.loads(exported.stdout)
    since = born(state)
    if since is None:
        print(f"stack {stack} has no resources: nothing to destroy")
        return 0
    end = since + timedelta(hours=hours)
    if now < end:
        print(f"stack {stack} ends at {end.astimezone(UTC):%Y-%m-%d %H:%M} UTC: ttlHours is {hours}")
        return 0
    ended = f"{end.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    kept = keeps_home(state)
    if kept is False and str(configured(repo, stack, "keepHome")).lower() == "true":
        raise UserError(
            f"stack {stack} is not destroyed, though its {hours} hours (ttlHours) ended at {ended}: keepHome is set in "
            f"its file, and no update has put it into effect\n    allowed: an update since keepHome was set\n"
            f"    fix: pulumi up --stack {stack}, or pulumi config rm keepHome --stack {stack}"
        )
    home = "The home is kept (keepHome), and /shared is deleted" if kept else "Its home and /shared are deleted too"
    print(
        f"::warning::stack {stack} is destroyed: {hours} hours (ttlHours) ended at {ended}. {home}",
        flush=True,
    )
    command = ["pulumi", "destroy", "--stack", stack, "--yes", "--non-interactive", "--suppress-outputs"]
    return subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Return Pulumi's exit status, or 1 for what a person can fix."""
    repo = Path.cwd()
    try:
        if arguments:
            return expire(repo, arguments[0], datetime.now(UTC))
        write_matrix(repo, ending(repo))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
