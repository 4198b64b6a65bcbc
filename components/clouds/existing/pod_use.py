"""The share of a namespace's quotas that a pod takes, after the defaults of its limit ranges. Pure: no I/O.

Amounts are in cores, bytes or things. Sources:
https://kubernetes.io/docs/concepts/policy/resource-quotas/ and https://kubernetes.io/docs/concepts/policy/limit-range/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from common.paths import REPO
from components.clouds.base import PodSize
from components.clouds.checks import problem
from components.clouds.existing.nodes import quantity

MIB, GIB = 2**20, 2**30
ROUNDING = 1e-6
"""Cores are fractions, whose sums differ from the exact ones in the last digits."""

REQUIRED = frozenset(
    {"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"},
)
"""Quota keys for which Kubernetes refuses a pod that does not state the amount."""

SETTINGS = {
    (part, kind, resource): f"{part}{name}"
    for part in ("scheduler", "worker")
    for kind, resource, name in (
        ("requests", "cpu", "Cpu"),
        ("limits", "cpu", "CpuLimit"),
        ("requests", "memory", "MemoryGiB"),
        ("limits", "memory", "MemoryGiB"),
    )
}
"""The setting of a pod's amount. Limit and request of memory are the same. The login pod has no settings for it."""

CHART_KEYS = {"login": "oidc", "placeholder": "worker"}
"""The key of a pod's values in the chart, where it is not the part's name."""

CHART_DEFAULTS = REPO / "chart" / "values.yaml"


@dataclass(frozen=True)
class PodUse:
    """Requests and limits of a pod by resource. part: of the chart. priority: name of the pod's priority class."""

    part: str
    requests: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    priority: str = ""

    def of(self, kind: str) -> Mapping[str, float]:
        """The amounts of `requests` or `limits`."""
        return self.requests if kind == "requests" else self.limits

    @property
    def charge(self) -> dict[str, float]:
        """The amount that each key of a quota counts."""
        found = {"pods": 1.0, "count/pods": 1.0}
        found |= {name: amount for name, amount in self.requests.items() if "/" not in name}
        found |= {f"requests.{name}": amount for name, amount in self.requests.items()}
        return found | {f"limits.{name}": amount for name, amount in self.limits.items()}


def pod_use(part: str, size: PodSize, chart_values: Mapping[str, Any]) -> PodUse:
    """The scheduler's or a worker's pod. chart_values: the user's, which may add limits and a priority class."""
    own = chart_values.get(part) or {}
    given = own.get("resources") or {}
    cpu_limit = {"cpu": size.cpu_limit_millicores / 1000} if size.cpu_limit_millicores else {}
    return PodUse(
        part,
        {"cpu": size.cpu_millicores / 1000, "memory": size.memory_mib * MIB, **amounts(given.get("requests"))},
        {"memory": (size.memory_limit_mib or size.memory_mib) * MIB, **cpu_limit, **amounts(given.get("limits"))},
        own.get("priorityClassName") or "",
    )


def login_use(chart_values: Mapping[str, Any]) -> PodUse:
    """The pod of the single sign-on. Its amounts are the chart's own, with the user's laid over them."""
    defaults = yaml.safe_load(CHART_DEFAULTS.read_text())["oidc"]["resources"]
    given = (chart_values.get("oidc") or {}).get("resources") or {}
    each = {kind: amounts(defaults[kind]) | amounts(given.get(kind)) for kind in ("requests", "limits")}
    return PodUse("login", each["requests"], each["limits"])


def placeholder_use(worker: PodUse, name: str, namespace: str, chart_values: Mapping[str, Any]) -> PodUse:
    """A pod that keeps room for a worker: with a worker's amounts and a priority class of its own."""
    own = (chart_values.get("worker") or {}).get("warmPriorityClassName")
    return replace(worker, part="placeholder", priority=own or f"{namespace}-{name}-warm")


def live_use(pod: Mapping[str, Any]) -> PodUse:
    """A pod of the cluster: the sum of its containers, or the largest container that runs before them."""
    spec = pod["spec"]
    found: dict[str, dict[str, float]] = {}
    for kind in ("requests", "limits"):
        each = [amounts((one.get("resources") or {}).get(kind)) for one in spec["containers"]]
        total = {name: sum(one.get(name, 0) for one in each) for name in {key for one in each for key in one}}
        for one in spec.get("initContainers") or []:
            for name, amount in amounts((one.get("resources") or {}).get(kind)).items():
                total[name] = max(amount, total.get(name, 0))
        found[kind] = total
    return PodUse("", found["requests"], found["limits"], spec.get("priorityClassName") or "")


def amounts(texts: Mapping[str, Any] | None) -> dict[str, float]:
    """Kubernetes' quantities as numbers."""
    return {name: quantity(str(text)) for name, text in (texts or {}).items()}


def items_of(limit_ranges: Sequence[Mapping[str, Any]], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and item of each limit range for things of one kind."""
    for limit_range in limit_ranges:
        for item in limit_range["spec"]["limits"]:
            if item["type"] == kind:
                yield limit_range["metadata"]["name"], item


def with_defaults(pod: PodUse, limit_ranges: Sequence[Mapping[str, Any]]) -> PodUse:
    """The pod with the amounts that Kubernetes adds where the pod states none."""
    requests, limits = dict(pod.requests), dict(pod.limits)
    for _, item in items_of(limit_ranges, "Container"):
        requests = amounts(item.get("defaultRequest")) | requests
        limits = amounts(item.get("default")) | limits
    return replace(pod, requests=requests, limits=limits)


def range_problems(pod: PodUse, limit_ranges: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each reason for which the limit ranges refuse a pod that has their defaults. It has one container."""
    for name, item in [*items_of(limit_ranges, "Container"), *items_of(limit_ranges, "Pod")]:
        where = f"limit range {name}"
        for bound, must_state, allowed, sign in (("min", "requests", "at least", -1), ("max", "limits", "at most", 1)):
            for resource, limit in amounts(item.get(bound)).items():
                for kind in ("requests", "limits"):
                    given = pod.of(kind).get(resource)
                    if given is None and kind == must_state:
                        yield missing(pod, kind, resource, where, limit)
                    elif given is not None and sign * (given - limit) > ROUNDING:
                        yield beyond(pod, kind, resource, allowed, limit, where)
        for resource, ratio in amounts(item.get("maxLimitRequestRatio")).items():
            request, maximum = pod.requests.get(resource), pod.limits.get(resource)
            if request is None or maximum is None:
                yield missing(pod, "requests" if request is None else "limits", resource, where)
            elif maximum > request * ratio + ROUNDING:
                yield beyond(pod, "limits", resource, f"at most {ratio:g} times the request,", request * ratio, where)
    for resource, own_limit in pod.limits.items():
        if (requested := pod.requests.get(resource, 0)) > own_limit + ROUNDING:
            yield problem(
                f"the {pod.part}'s requests.{resource} is {words(resource, requested)}, above the limit that "
                "a limit range of the namespace gives it",
                f"at most {words(resource, own_limit)}, or a limit of its own",
                setting_fix(pod, "limits", resource, requested),
            )


def missing(pod: PodUse, kind: str, resource: str, where: str, amount: float = 1) -> str:
    """The problem of a pod that has to state an amount. amount: for the fix, at least what the pod requests."""
    return problem(
        f"the {pod.part} has no {kind}.{resource}, and {where} asks for it",
        f"a {pod.part} with {kind}.{resource}",
        setting_fix(pod, kind, resource, max(amount, pod.requests.get(resource, 0))),
    )


def beyond(pod: PodUse, kind: str, resource: str, bound: str, allowed: float, where: str) -> str:
    """The problem of an amount that is too small or too large."""
    return problem(
        f"the {pod.part}'s {kind}.{resource} is {words(resource, pod.of(kind)[resource])}, which {where} refuses",
        f"{bound} {words(resource, allowed)}",
        setting_fix(pod, kind, resource, allowed),
    )


def setting_fix(pod: PodUse, kind: str, resource: str, amount: float) -> str:
    """The command that gives a pod the amount of a resource."""
    setting = SETTINGS.get((pod.part, kind, resource))
    if setting is None:
        key = CHART_KEYS.get(pod.part, pod.part)
        number = f"{amount:g}" if resource == "cpu" else f"{amount:.0f}"
        return f"pulumi config set --path chartValues.{key}.resources.{kind}.{resource} {number}"
    return f"pulumi config set {setting} {amount / (GIB if resource == 'memory' else 1):g}"


def words(key: str, amount: float) -> str:
    """An amount for a message. key: of a quota, or a resource."""
    if key.endswith("cpu"):
        return f"{round(amount, 3):g} cores"
    if key.endswith(("memory", "storage")):
        return f"{round(amount / GIB, 2):g} GiB"
    return f"{amount:g}"
