"""Proves that a stack works: the article's computation in its scheduler pod, on distinct worker pods."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.progress import step
from local.cluster import Node

ARTICLE_LENGTH = 10_000_000
"""Random numbers in each of the 40 means, as the article has it."""

SHORT_LENGTH = 1_000_000
"""The same in seconds instead of a minute."""


def prove(node: Node, outputs: Mapping[str, Any], length: int = SHORT_LENGTH) -> dict[str, Any]:
    """Runs it and returns what it measured: pods, connectSeconds, oneWorkerSeconds, allWorkersSeconds, mean.

    Raises UserError where R fails, a worker is missing, or two workers share a pod.
    """
    workers = int(outputs["workers"])
    if workers == 0:
        raise UserError("This stack has no workers to run on. Fix: set `workers` to 1 or more, then run again")
    namespace = str(outputs["namespace"])
    selector = "app.kubernetes.io/component=scheduler"
    found = node.kubectl("-n", namespace, "get", "deployments", "-l", selector, "-o", "name").stdout.split()
    if not found:
        raise UserError(f"There is no scheduler in namespace {namespace}. Fix: make up")
    # A stack that was just rolled back is the same as before, and its pods may still be on their way.
    node.kubectl("-n", namespace, "rollout", "status", found[0], "--timeout=300s")
    with step(f"Computing 40 means of {length:,} random numbers on {workers} workers"):
        script = (Path(__file__).parent / "proof.R").read_text()
        ran = node.kubectl("-n", namespace, "exec", "-i", found[0], "--", "Rscript", "-", str(length), str(workers),
                           input=script, timeout=1800)  # fmt: skip
        lines = [line for line in ran.stdout.splitlines() if line.startswith("PROOF ")]
        if not lines:
            raise UserError(f"R printed no result:\n{ran.stdout[-500:]}{ran.stderr[-500:]}")
        measured: dict[str, Any] = json.loads(lines[-1].removeprefix("PROOF "))
        distinct = set(measured["pods"])
        if len(distinct) != len(measured["pods"]) or len(distinct) < workers:
            raise UserError(
                f"{len(measured['pods'])} workers answered from {len(distinct)} pods ({', '.join(sorted(distinct))}), "
                f"and each must have a pod of its own. Fix: make down && make up"
            )
    return measured


def report(measured: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """The result and the way in, for a person to read."""
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
