"""Preview of one stack with a report of it: `python -m ci.preview STACK FOLDER`, which gets STACK.md.

Stack dev is the one that `make up` made on this machine, with its state in the cluster's folder; any other is in the
backend that Pulumi is logged in to.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ci.affected import LOCAL_STACK
from ci.preview_report import Preview, read_events, report
from common.errors import UserError
from common.paths import REPO, local_cluster, state_dir

NO_STACK = "no stack named"
"""Message of the Pulumi CLI if a backend lacks the stack (pkg/backend/backenderr/backenderr.go)."""


def local_environment() -> dict[str, str]:
    """Return the variables by which programs reach the cluster of `make up`, and Pulumi its state."""
    from local import cluster

    node = cluster.running(local_cluster())
    if node is None:
        raise UserError("stack dev is not up: Kubernetes does not run on this machine.\n    fix: make up")
    folder = state_dir(node.cluster)
    return {
        "FUTURE_KUBERNETES_BIN": str(node.programs),
        "FUTURE_KUBERNETES_KUBECONFIG": str(node.kubeconfig),
        "PATH": f"{os.environ['PATH']}{os.pathsep}{node.programs}",
        "PULUMI_BACKEND_URL": f"file://{folder / 'pulumi'}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(folder / "pulumi-passphrase"),
    }


def local_config(stack: str, folder: Path) -> Path:
    """Write the stack's settings of this checkout over those that it is up with, and return the file.

    The salt of its secrets stays, and so does what is in no file of the project, such as the image that was built.
    """
    up = yaml.safe_load((state_dir(local_cluster()) / f"Pulumi.{stack}.yaml").read_text())
    up["config"] |= yaml.safe_load((REPO / f"Pulumi.{stack}.yaml").read_text())["config"]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"Pulumi.{stack}.yaml"
    file.write_text(yaml.safe_dump(up))
    return file


def preview(stack: str, folder: Path, environment: Mapping[str, str], config_file: Path | None = None) -> int:
    """Write the report of a stack's preview into the folder and return Pulumi's exit status.

    A stack that the backend lacks has nothing to compare with: that is reported, and is no failure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, log = folder / f"{stack}.md", folder / f"{stack}.events"
    variables = {
        **os.environ,
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # Else the CLI fetches the plugins of every cloud that uv.lock names.
        "PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL": "true",
        "PULUMI_DEBUG_COMMANDS": "true",  # shows the option --event-log, as the Automation API does
        **environment,
    }
    select = ["pulumi", "stack", "select", stack, "--non-interactive"]
    selected = subprocess.run(select, cwd=REPO, env=variables, capture_output=True, text=True, check=False)
    if selected.returncode != 0:
        if NO_STACK not in selected.stderr:
            raise UserError(f"pulumi stack select {stack} failed: {selected.stderr.strip()[-800:]}")
        _write(target, f"### Preview of stack `{stack}`\n\nThe backend has no such stack yet: `pulumi stack init`.\n")
        return 0
    command = ["pulumi", "preview", "--stack", stack, "--diff", "--non-interactive", "--suppress-outputs"]
    command += ["--policy-pack", "policy", "--event-log", str(log)]
    command += ["--config-file", str(config_file)] if config_file else []
    status = subprocess.run(command, cwd=REPO, env=variables, check=False).returncode
    _write(target, report(stack, Preview.of(read_events(log)), failed=status != 0))
    log.unlink(missing_ok=True)
    return status


def _write(target: Path, text: str) -> None:
    target.write_text(text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a") as file:
            file.write(text)


def main(arguments: Sequence[str]) -> int:
    """Return Pulumi's exit status, or 1 for what a person can fix."""
    stack, folder = arguments
    try:
        if stack == LOCAL_STACK:
            environment = local_environment()
            return preview(stack, Path(folder), environment, local_config(stack, Path(folder).resolve()))
        return preview(stack, Path(folder), {})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
