"""The version of the protocol between worker, broker and R session, and the error for two versions that differ.

A rolling update of the image runs old workers beside a new broker for a while. A user's own library may hold another
version of the R package. So each side states its version in its first line, and a mix ends in one clear error instead
of a line that is misunderstood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSION = 5
"""Raise it with every change that a peer of the version before would misunderstand.

R states the same number: `protocol_version` in image/future.kubernetes/R/broker.R and in image/etc/Rprofile.
"""

RETRY_SECONDS = 10.0
"""Pause of a refused worker before it dials again: only an update of one side ends the refusal."""


def stated(message: Mapping[str, Any]) -> int | None:
    """The version in the first message of a peer; None where it states none."""
    version = message.get("protocol")
    return version if type(version) is int else None


def worker_mismatch(worker: int | None, broker: int | None, release: str) -> str:
    """Explain why a worker and a broker of these versions cannot work together, with the fix; empty where they can."""
    if worker == broker:
        return ""
    release = release or "RELEASE"
    if (worker or 0) < (broker or 0):
        older, update = "worker pod", f"deployment/{release}-worker"
        restart = f"restart the workers: kubectl rollout restart {update}"
    else:
        older, update = "scheduler pod", f"deployment/{release}-scheduler"
        restart = f"restart the scheduler, which ends its R sessions: kubectl rollout restart {update}"
    return (
        f"the worker states {_words(worker)} and the broker {_words(broker)}; both must state the same. "
        f"The {older} runs the older image: wait for 'kubectl rollout status {update}', and if that is done {restart}"
    )


def session_mismatch(session: int | None, broker: int = VERSION) -> str:
    """Explain why an R session and a broker of these versions cannot work together; empty where they can."""
    if session == broker:
        return ""
    return (
        f"this R session states {_words(session)} and the broker of this pod {_words(broker)}; both must state the "
        "same. Restart the R session. If that does not help, remove the other version of the R package from your own "
        'library with remove.packages("future.kubernetes"), and restart the R session'
    )


def _words(version: int | None) -> str:
    return "no protocol version" if version is None else f"protocol version {version}"
