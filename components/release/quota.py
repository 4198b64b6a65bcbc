"""The resource quota of a namespace that the stack creates: room for all workers and their successors, no more."""

from __future__ import annotations

import math

from components.clouds.base import PodSize
from components.settings.model import Settings

SPARE_PODS = 3
"""Pods beyond workers and one scheduler: the chart's test pod, and a scheduler that is still terminating."""

TERMINATING_SHARE = 1
"""Workers that may still be terminating when their successors start, as the chart's maxUnavailable. Each counts."""


def quota(settings: Settings, worker: PodSize, scheduler: PodSize, warm: int = 0) -> dict[str, str]:
    """The quota's hard limits; none where others may use the namespace too. Billed services are not allowed at all.

    warm: placeholders, which have a worker's requests.
    """
    if not (settings.resource_quota and settings.makes_namespace):
        return {}
    login = 1 if settings.oidc_issuer else 0
    workers = settings.max_workers + math.ceil(settings.max_workers * TERMINATING_SHARE) + warm
    cpu = workers * worker.cpu_millicores + (1 + SPARE_PODS) * scheduler.cpu_millicores
    memory = workers * worker.memory_mib + (1 + SPARE_PODS) * scheduler.memory_mib
    return {
        "pods": str(workers + 1 + login + SPARE_PODS),
        "requests.cpu": f"{cpu}m",
        "requests.memory": f"{memory}Mi",
        "services.loadbalancers": "0",
        "services.nodeports": "0",
    }
