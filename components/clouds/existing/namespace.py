"""Quotas and limit ranges of a namespace that others made: pods that they refuse are refused before anything is made.

Kubernetes refuses such pods in an event of their ReplicaSet only. Helm would wait for them until its time-out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pulumi

from components.clouds.base import PodSize, home_claim, shared_claim
from components.clouds.checks import problem, say_unchecked
from components.clouds.existing.access import Access, KubeconfigError
from components.clouds.existing.nodes import asked, quantity
from components.clouds.existing.pod_use import (
    GIB,
    REQUIRED,
    ROUNDING,
    PodUse,
    amounts,
    items_of,
    live_use,
    login_use,
    missing,
    placeholder_use,
    pod_use,
    range_problems,
    with_defaults,
    words,
)
from components.settings.model import Settings

ENDED = ("Succeeded", "Failed")
"""Phases of pods that no quota counts."""


@dataclass(frozen=True)
class Demand:
    """A stack's needs of its namespace: its pods, its claims in GiB by the setting, and those that it has already.

    others: the pods beside the workers, each once. placeholders: number of those that keep room for further workers.
    """

    others: Sequence[PodUse]
    worker: PodUse
    workers: int
    max_workers: int
    claims: Mapping[str, float]
    placeholder: PodUse | None = None
    placeholders: int = 0
    owned: Sequence[PodUse] = ()
    owned_claims: Mapping[str, float] = field(default_factory=dict)

    @property
    def counted(self) -> list[tuple[PodUse, int]]:
        """Each kind of pod that the chart makes, with the number at the start."""
        pods = [(pod, 1) for pod in self.others] + [(self.worker, self.workers)]
        return pods + ([(self.placeholder, self.placeholders)] if self.placeholder else [])

    @property
    def words(self) -> str:
        """The pods in words, such as `scheduler, login and 4 workers`."""
        parts = [pod.part for pod in self.others] + [f"{self.workers} workers"]
        if self.placeholders:
            parts.append(f"{self.placeholders} placeholders")
        return f"{', '.join(parts[:-1])} and {parts[-1]}"

    def own_charge(self, key: str, quota: Mapping[str, Any]) -> float:
        """The part of a quota's use that is this stack's, which an update replaces."""
        if key in ("persistentvolumeclaims", "count/persistentvolumeclaims"):
            return len(self.owned_claims)
        if key == "requests.storage":
            return sum(self.owned_claims.values()) * GIB
        return sum(pod.charge.get(key, 0) for pod in self.owned if counts(quota, pod))


def check_namespace(access: Access, settings: Settings, scheduler: PodSize, worker: PodSize) -> None:
    """Raises KubeconfigError where quotas or limit ranges of the namespace refuse a pod or a claim of the start.

    Warns where they refuse some of `maxWorkers`. Where the caller may not read them, the check says so.
    """
    namespace = settings.namespace
    unchecked = f"whether quotas and limit ranges of namespace {namespace} admit the pods"
    found = read_list(access, unchecked, "resourcequotas,limitranges", "--namespace", namespace)
    ranges = [item for item in found or [] if item["kind"] == "LimitRange"]
    # The stack's own quota follows its settings, in the same update.
    own = settings.name if settings.makes_namespace else ""
    quotas = [item for item in found or [] if item["kind"] == "ResourceQuota" and item["metadata"]["name"] != own]
    if not (ranges or quotas):
        return
    demand = demand_of(settings, scheduler, worker, ranges)
    # A placeholder has a worker's amounts.
    problems = [text for pod in (*demand.others, demand.worker) for text in range_problems(pod, ranges)]
    problems += claim_problems(demand, ranges)
    if quotas and (known := with_owned(access, settings, demand)):
        problems += [text for quota in quotas for text in quota_problems(quota, known)]
        if not problems and (room := min(room_for_workers(quota, known) for quota in quotas)) < settings.max_workers:
            pulumi.log.warn(
                f"the quotas of namespace {namespace} have room for {room:.0f} of {settings.max_workers} workers "
                f"(maxWorkers): kubectl --namespace {namespace} describe quota"
            )
    if problems:
        raise KubeconfigError("\n".join(dict.fromkeys(problems)))


def demand_of(
    settings: Settings, scheduler: PodSize, worker: PodSize, ranges: Sequence[Mapping[str, Any]] = ()
) -> Demand:
    """All pods that the chart makes, and the claims. ranges: the namespace's limit ranges, whose defaults pods get."""

    def admitted(pod: PodUse) -> PodUse:
        return with_defaults(pod, ranges)

    given = settings.chart_values
    claims = {"homeGiB": settings.home_gib, "sharedGiB": settings.shared_gib}
    others = [pod_use("scheduler", scheduler, given)] + ([login_use(given)] if settings.oidc_issuer else [])
    workers = admitted(pod_use("worker", worker, given))
    # Here the setting warmWorkers is only a value of the chart. The broker keeps no room beyond maxWorkers.
    warm = min((given.get("worker") or {}).get("warmReplicas") or 0, settings.max_workers - settings.workers)
    return Demand(
        others=[admitted(pod) for pod in others],
        worker=workers,
        workers=settings.workers,
        max_workers=settings.max_workers,
        claims={key: gib for key, gib in claims.items() if gib},
        placeholder=placeholder_use(workers, settings.name, settings.namespace, given) if warm else None,
        placeholders=warm,
    )


def with_owned(access: Access, settings: Settings, demand: Demand) -> Demand | None:
    """The demand with what the stack has already, which counts against the quotas. None where it cannot be read."""
    found = read_list(
        access,
        f"whether the quotas of namespace {settings.namespace} have room for the pods",
        "pods,persistentvolumeclaims",
        "--namespace",
        settings.namespace,
        "--selector",
        f"app.kubernetes.io/instance={settings.name}",
    )
    if found is None:
        return None
    pods = [item for item in found if item["kind"] == "Pod" and item.get("status", {}).get("phase") not in ENDED]
    keys = {home_claim(settings): "homeGiB", shared_claim(settings): "sharedGiB"}
    claims = {
        keys[item["metadata"]["name"]]: quantity(item["spec"]["resources"]["requests"]["storage"]) / GIB
        for item in found
        if item["kind"] == "PersistentVolumeClaim" and item["metadata"]["name"] in keys
    }
    return replace(demand, owned=[live_use(pod) for pod in pods], owned_claims=claims)


def read_list(access: Access, unchecked: str, *question: str) -> list[dict[str, Any]] | None:
    """The objects that kubectl lists. Where the cluster refuses, says what is not checked and returns None."""
    answer = asked(access, "get", *question, "--output", "json")
    if answer is None:
        return None
    if answer.returncode != 0:
        say_unchecked(unchecked, RuntimeError(answer.stderr or f"kubectl exited with {answer.returncode}"))
        return None
    return list(json.loads(answer.stdout)["items"])


def counts(quota: Mapping[str, Any], pod: PodUse) -> bool:
    """True if a quota counts a pod of this project, which has requests and no deadline. Other scopes count others."""
    spec = quota["spec"]
    wanted: list[tuple[str, str, Sequence[str]]] = [(scope, "Exists", []) for scope in spec.get("scopes") or []]
    for each in (spec.get("scopeSelector") or {}).get("matchExpressions") or []:
        wanted.append((each["scopeName"], each["operator"], each.get("values") or []))
    return all(in_scope(pod, *each) for each in wanted)


def in_scope(pod: PodUse, scope: str, operator: str, values: Sequence[str]) -> bool:
    """True if a pod is in one scope of a quota."""
    if scope != "PriorityClass":
        return scope in ("NotTerminating", "NotBestEffort")
    if operator in ("In", "Exists"):
        return bool(pod.priority) and (operator == "Exists" or pod.priority in values)
    return pod.priority not in values if operator == "NotIn" else not pod.priority


def free_amounts(quota: Mapping[str, Any], demand: Demand) -> Iterator[tuple[str, float, float, float]]:
    """Key, hard limit, use by others and the rest, of each key of a quota."""
    used = amounts((quota.get("status") or {}).get("used"))
    for key, hard in amounts(quota["spec"].get("hard")).items():
        others = max(0.0, used.get(key, 0) - demand.own_charge(key, quota))
        yield key, hard, others, hard - others


def quota_problems(quota: Mapping[str, Any], demand: Demand) -> Iterator[str]:
    """Each key of a quota that refuses a pod of the start, or a claim."""
    name, namespace = quota["metadata"]["name"], quota["metadata"]["namespace"]
    for key, hard, others, free in free_amounts(quota, demand):
        pods = [pod for pod in (*demand.others, demand.worker) if counts(quota, pod)]
        if key in REQUIRED:
            kind, resource = key.split(".") if "." in key else ("requests", key)
            yield from (missing(pod, kind, resource, f"quota {name}") for pod in pods if key not in pod.charge)
        needs = needed(quota, demand, key)
        if needs <= free + ROUNDING:
            continue
        state = f"hard {words(key, hard)}, used by others {words(key, others)}"
        if key in CLAIM_KEYS:
            settings = " and ".join(demand.claims)
            given = f"{settings} need {words(key, needs)} of quota {name} ({key}: {state})"
            fix = "pulumi config set homeGiB with less"
        else:
            given = f"{demand.words} need {words(key, needs)} of quota {name} ({key}: {state})"
            fix = fewer_workers(quota, demand)
        yield problem(
            f"{given} in namespace {namespace}",
            f"at most {words(key, max(0.0, free))}",
            f"{fix}, or a larger quota: kubectl --namespace {namespace} describe quota {name}",
        )


CLAIM_KEYS = ("requests.storage", "persistentvolumeclaims", "count/persistentvolumeclaims")
"""Keys of a quota that count claims of volumes."""


def needed(quota: Mapping[str, Any], demand: Demand, key: str) -> float:
    """The amount that the stack needs of a quota's key at its start."""
    if key in CLAIM_KEYS:
        return sum(demand.claims.values()) * GIB if key == "requests.storage" else len(demand.claims)
    return sum(pod.charge.get(key, 0) * number for pod, number in demand.counted if counts(quota, pod))


def room_for_workers(quota: Mapping[str, Any], demand: Demand) -> float:
    """Workers for which a quota has room beside the other pods; infinite where it does not count them."""
    room = math.inf
    for key, _, _, free in free_amounts(quota, demand):
        each = demand.worker.charge.get(key, 0) if counts(quota, demand.worker) else 0
        if key not in CLAIM_KEYS and each:
            beside = sum(pod.charge.get(key, 0) for pod in demand.others if counts(quota, pod))
            room = min(room, max(0, math.floor((free - beside) / each + ROUNDING)))
    return room


def fewer_workers(quota: Mapping[str, Any], demand: Demand) -> str:
    """The command that sets as many workers as a quota admits, or smaller pods where it admits none."""
    room = room_for_workers(quota, demand)
    if 1 <= room < demand.workers:
        return f"pulumi config set workers {room:.0f}"
    return "smaller pods (schedulerCpu, schedulerMemoryGiB, workerCpu, workerMemoryGiB)"


def claim_problems(demand: Demand, limit_ranges: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each claim that a limit range refuses by its size."""
    for name, item in items_of(limit_ranges, "PersistentVolumeClaim"):
        minimum = amounts(item.get("min")).get("storage", 0)
        maximum = amounts(item.get("max")).get("storage", math.inf)
        for key, gib in demand.claims.items():
            if not minimum <= gib * GIB <= maximum:
                bounds = [f"at least {words('storage', minimum)}"] if minimum else []
                bounds += [f"at most {words('storage', maximum)}"] if maximum < math.inf else []
                fits = minimum if gib * GIB < minimum else maximum
                yield problem(
                    f"{key} is {gib}, which limit range {name} refuses",
                    " and ".join(bounds),
                    f"pulumi config set {key} {math.ceil(fits / GIB) if fits == minimum else fits // GIB:.0f}",
                )
