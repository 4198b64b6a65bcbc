"""Smoke test of a stack: runs the article's computation in the scheduler pod, on workers in distinct pods."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.patience import patience
from common.progress import step
from local.cluster import Node

ARTICLE_LENGTH = 10_000_000
"""Random numbers in each of the 40 means, as in the article."""

SHORT_LENGTH = 1_000_000
"""Size of a computation that takes seconds instead of a minute."""

RESULT_MARK = "SMOKE_TEST "

_ATTEMPTS = 3
# kubectl's words where the connection ends before the command does. An error of R has none of them.
_LOST = re.compile(r"abnormal closure\): unexpected EOF|connection reset by peer|TLS handshake timeout")


def run(node: Node, outputs: Mapping[str, Any], length: int = SHORT_LENGTH) -> dict[str, Any]:
    """Runs the computation; returns its measurements: pods, connectSeconds, oneWorkerSeconds, allWorkersSeconds, mean.

    Raises UserError where R fails, a worker is missing, or two workers share a pod.
    """
    workers = int(outputs["workers"])
    if workers == 0:
        raise UserError(
            "workers is 0, so there is nothing to test\n    allowed: 1 or more\n    fix:     make up CONFIG=workers=1"
        )
    namespace = str(outputs["namespace"])
    selector = "app.kubernetes.io/component=scheduler"
    asked = node.kubectl("-n", namespace, "get", "deployments", "-l", selector, "-o", "json").stdout
    found = json.loads(asked)["items"]
    if not found:
        raise UserError(f"there is no scheduler in namespace {namespace}\n    fix: make up")
    scheduler = f"deployment/{found[0]['metadata']['name']}"
    # After a rollback nothing was updated, but the pods may still be starting. With `pauseRollouts` no rollout ends.
    if not found[0]["spec"].get("paused"):
        node.kubectl("-n", namespace, "rollout", "status", scheduler, f"--timeout={patience(300):.0f}s")
    with step(f"Computing 40 means of {length:,} random numbers on {workers} workers"):
        script = (Path(__file__).parent / "smoke_test.R").read_text()
        command = ["-n", namespace, "exec", "-i", scheduler, "--", "Rscript", "-", str(length), str(workers)]
        ran = _reconnected(lambda: node.kubectl(*command, f"{patience(600):.0f}", input=script, timeout=patience(1800)))
        lines = [line for line in ran.stdout.splitlines() if line.startswith(RESULT_MARK)]
        if not lines:
            raise UserError(f"R printed no result:\n{ran.stdout[-500:]}{ran.stderr[-500:]}")
        measured: dict[str, Any] = json.loads(lines[-1].removeprefix(RESULT_MARK))
        distinct = set(measured["pods"])
        if len(distinct) != len(measured["pods"]) or len(distinct) < workers:
            raise UserError(
                f"{len(measured['pods'])} workers ran in {len(distinct)} pods ({', '.join(sorted(distinct))})\n"
                "    allowed: one pod for each worker\n    fix:     make down && make up"
            )
    return measured


def _reconnected(compute: Callable[[], subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    """Computes again where the connection to the pod is lost, as seen on one processor, which the workers keep busy."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return compute()
        except UserError as error:
            if not _LOST.search(str(error)):
                raise
            print("  The connection to the scheduler pod was lost; computing again", flush=True)
    return compute()


def report(measured: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """Return the result and the login as text for the screen."""
    one, everyone = measured["oneWorkerSeconds"], measured["allWorkersSeconds"]
    pods = "\n".join(f"    {pod}" for pod in sorted(measured["pods"]))
    return f"""
Parallel R works: {len(measured["pods"])} workers, each in a pod of its own:
{pods}
    plan() connected them in {measured["connectSeconds"]:.2f} s; the computation took {everyone:.1f} s,
    and {one:.1f} s on one worker ({one / everyone:.1f} times as long; this machine has {os.cpu_count()} cores)

To log in:
    1. {outputs["portForward"]}
    2. open {outputs["url"]}
    3. the password: make password
"""
