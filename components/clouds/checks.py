"""What the components for Google Cloud and AWS share: questions to the cloud with readable answers, labels, checks.

Nothing here imports a cloud's SDK.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pulumi

from components.clouds.base import WORKER_NODE_LABEL, WORKER_TOLERATION, Placement
from components.settings.names import short_name

Answer = TypeVar("Answer")


class CloudError(pulumi.RunError):
    """What the cloud refuses or does not have, found before anything is made. Printed without a stack trace."""


def problem(what: str, allowed: str, fix: str) -> str:
    """One problem in the form that wrong settings are reported in."""
    return f"{what}\n    allowed: {allowed}\n    fix:     {fix}"


def ask(question: str, call: Callable[[], Answer], fixes: Sequence[tuple[str, str]]) -> Answer:
    """The answer of a provider's data source, or a `CloudError` that says what was asked and how to mend it.

    fixes: pairs of a pattern and a remedy; the first pattern found in the provider's message gives the remedy.
    """
    try:
        return call()
    except pulumi.RunError:
        raise
    except Exception as error:  # the SDK raises bare Exception for every refusal of a provider
        reason = " ".join(str(error).split())
        remedy = next(
            (fix for pattern, fix in fixes if re.search(pattern, reason, re.IGNORECASE)), "see the reason above"
        )
        raise CloudError(f"cannot find out {question}\n    reason:  {reason}\n    fix:     {remedy}") from error


def ask_or_none(call: Callable[[], Answer]) -> Answer | None:
    """The answer of a data source that may be refused (a price, a quota) and can be done without."""
    try:
        return call()
    except Exception as error:  # the SDK raises bare Exception; which of them means "not allowed" differs by provider
        pulumi.log.debug(f"not answered, and done without: {error}")
        return None


def require_tool(name: str, why: str, fix: str) -> None:
    """Raises `CloudError` unless the command `name` is on PATH."""
    if shutil.which(name) is None:
        raise CloudError(f"the command {name} is not on PATH; {why}\n    fix:     {fix}")


def common_labels(stack: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Labels (tags on AWS) that every resource of the stack carries, so that its cost can be found; the user's win."""
    return {"app": "future-kubernetes", "stack": short_name(re.sub(r"[^a-z0-9_-]+", "-", stack.lower()), 63), **labels}


def warn_if_open(authorized_networks: Sequence[str], resource: pulumi.Resource) -> None:
    """A warning, in the preview too, when nobody has decided who may reach the control plane."""
    if not authorized_networks:
        pulumi.log.warn(
            "authorizedNetworks is not set: the Kubernetes API answers every address on the internet (credentials are "
            'still needed). Close it with: pulumi config set authorizedNetworks "$(curl -s https://ifconfig.me)/32" '
            "- or state that you want it so with: pulumi config set authorizedNetworks 0.0.0.0/0",
            resource,
        )


SYSTEM_PLACEMENT = Placement(node_selector={WORKER_NODE_LABEL: "system"})
"""Where the scheduler runs: beside Kubernetes' own pods, so that workers come and go without it."""

WORKER_PLACEMENT = Placement(node_selector={WORKER_NODE_LABEL: "worker"}, tolerations=(WORKER_TOLERATION,))
