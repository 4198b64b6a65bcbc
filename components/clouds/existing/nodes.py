"""Asks an existing cluster through kubectl: whether its nodes can hold a worker, and for the Prometheus operator."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from common.kubectl import find_program
from common.private_files import private_file
from components.clouds.allocatable import Allocatable
from components.clouds.base import GUEST_PLACEMENT, WORKER_NODE_LABEL, Placement, PodSize
from components.clouds.checks import problem, say_unchecked
from components.clouds.existing.access import Access, KubeconfigError


def read_nodes(access: Access, placement: Placement = GUEST_PLACEMENT) -> list[Allocatable] | None:
    """The allocatable resources of each node that may hold workers; None where they are unknown.

    placement: of the workers.

    Unknown are they without kubectl, without permission to list nodes, and while another stack's worker pool has no
    node. Raises KubeconfigError where the cluster does not answer or refuses the credentials.
    """
    answer = asked(access, "get", "nodes", "--output", "json")
    if answer is None:
        return None
    if answer.returncode == 0:
        nodes = json.loads(answer.stdout)["items"]
        usable = [node for node in nodes if is_schedulable(node, placement)]
        if not usable and any(is_system(node) for node in nodes):
            return None
        if strange := architectures(usable) - {IMAGE_ARCHITECTURE}:
            pulumi.log.warn(foreign_words(strange))
        return [allocatable(node) for node in usable]
    if "forbidden" in answer.stderr.lower():
        return None
    lines = [line for line in answer.stderr.strip().splitlines() if line.strip()]
    raise KubeconfigError(unreachable(access, lines[-1] if lines else f"kubectl exited with {answer.returncode}"))


def asked(access: Access, *question: str) -> subprocess.CompletedProcess[str] | None:
    """kubectl's answer; None where it is not installed. Raises KubeconfigError where the cluster is silent."""
    program = find_program("kubectl")
    if program is None:
        return None
    # A file of mode 0600 rather than standard input: kubectl reads a kubeconfig more than once.
    with private_file(access.text) as file:
        command = [program, "--kubeconfig", str(file), "--request-timeout=8s", *question]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except subprocess.TimeoutExpired:
            raise KubeconfigError(unreachable(access, "no answer within 30 s")) from None


IMAGE_ARCHITECTURE = "amd64"
"""The processor for which the project builds its image, as Kubernetes spells it."""

OPERATOR = "/apis/monitoring.coreos.com/v1"
"""Path of the Prometheus operator's kinds. Every user may ask for it, unlike for a CRD by its name."""


def check_operator(access: Access) -> None:
    """Raises KubeconfigError where the cluster has no Prometheus operator. Without an answer nothing is checked."""
    answer = asked(access, "get", "--raw", OPERATOR)
    if answer is not None and answer.returncode != 0 and "(NotFound)" in answer.stderr:
        raise KubeconfigError(
            problem(
                f"monitoring is true, and the cluster at {access.server} does not know {OPERATOR}",
                "a cluster with the Prometheus operator, or monitoring = false",
                "install it, for example by the chart kube-prometheus-stack, or pulumi config set monitoring false",
            )
        )


def check_pull_secrets(access: Access, namespace: str, names: Sequence[str]) -> None:
    """Raises KubeconfigError for a Secret that is not in the namespace: pods would wait for their image for ever.

    Where the caller may not read Secrets, the check says so.
    """
    for name in names:
        answer = asked(access, "get", "secret", name, "--namespace", namespace, "--output", "name")
        if answer is None or answer.returncode == 0:
            continue
        if "(NotFound)" not in answer.stderr:
            what = f"whether there is a Secret {name} in namespace {namespace}"
            say_unchecked(what, RuntimeError(answer.stderr or f"kubectl exited with {answer.returncode}"))
            continue
        raise KubeconfigError(
            problem(
                f"imagePullSecrets has {name}, which namespace {namespace} does not have",
                "Secrets of that namespace: kubectl get secrets",
                f"kubectl --namespace {namespace} create secret docker-registry {name} --docker-server=REGISTRY "
                "--docker-username=USER --docker-password=TOKEN",
            )
        )


def unreachable(access: Access, reason: str) -> str:
    """The message for a cluster that does not answer."""
    return problem(
        f"the cluster of context {access.context!r} at {access.server} cannot be used: {reason}",
        "a cluster that answers, with credentials that it accepts",
        f"see that `kubectl --context {shlex.quote(access.context)} get nodes` works, then run again",
    )


def architectures(nodes: Sequence[Mapping[str, Any]]) -> set[str]:
    """The processors of nodes, such as `amd64`. A node that does not report its own counts as the image's."""
    return {node["status"].get("nodeInfo", {}).get("architecture", IMAGE_ARCHITECTURE) for node in nodes}


def foreign_words(strange: set[str]) -> str:
    """The warning of nodes on which the image of `image/Dockerfile` does not start. A user's own image may."""
    return problem(
        f"workers may run on nodes of architecture {', '.join(sorted(strange))}",
        f"those for which image was built: the image of image/Dockerfile is for {IMAGE_ARCHITECTURE}",
        f"pulumi config set nodeSelector kubernetes.io/arch={IMAGE_ARCHITECTURE}, or an image for all of them",
    )


def is_system(node: Mapping[str, Any]) -> bool:
    """True if a node is one of the system nodes that another stack of this program made."""
    return bool(node.get("metadata", {}).get("labels", {}).get(WORKER_NODE_LABEL) == "system")


def is_schedulable(node: Mapping[str, Any], placement: Placement) -> bool:
    """True if workers may run on a node: not cordoned, ready, with the labels, no untolerated taint."""
    spec, labels = node.get("spec", {}), node.get("metadata", {}).get("labels", {})
    if any(labels.get(key) != value for key, value in placement.node_selector.items()):
        return False
    tainted = any(
        taint.get("effect") in ("NoSchedule", "NoExecute")
        and not any(tolerates(each, taint) for each in placement.tolerations)
        for taint in spec.get("taints", [])
    )
    conditions = {entry["type"]: entry["status"] for entry in node.get("status", {}).get("conditions", [])}
    return not (spec.get("unschedulable") or tainted or is_system(node)) and conditions.get("Ready") == "True"


def tolerates(toleration: Mapping[str, str], taint: Mapping[str, str]) -> bool:
    """True if a pod with the toleration may run in spite of the taint."""
    return (
        toleration["key"] == taint.get("key")
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
        and toleration.get("effect") in (None, taint.get("effect"))
    )


UNITS: dict[str, float] = {
    **{f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGTPE", 1)},
    **{letter: 10 ** (3 * power) for power, letter in enumerate("kMGTPE", 1)},
}


def quantity(text: str) -> float:
    """A Kubernetes quantity (`3920m`, `16Gi`, `4`) as a number of cores, bytes or things."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


def allocatable(node: Mapping[str, Any]) -> Allocatable:
    """A node's allocatable resources, from its own report."""
    reported = node["status"]["allocatable"]
    return Allocatable(
        cpu_millicores=int(quantity(reported["cpu"]) * 1000 + 1e-6),
        memory_mib=int(quantity(reported["memory"]) / 2**20),
        pods=int(quantity(reported.get("pods", "110"))),
    )


def check_fit(nodes: Sequence[Allocatable], worker: PodSize, workers: int) -> str | None:
    """Raises KubeconfigError where no node can hold one worker; returns a warning where not all workers fit today.

    A warning, since the cluster may have an autoscaler and other pods may end. Pods that run already are not counted:
    a user of a shared cluster seldom has the permission to list them.
    """
    roomiest = max((node.count(worker) for node in nodes), default=0)
    if not roomiest:
        largest = max(nodes, key=lambda node: (node.cpu_millicores, node.memory_mib), default=Allocatable(0, 0, 0))
        raise KubeconfigError(
            problem(
                f"no node can hold a worker of {worker.cpu_millicores / 1000:g} cores and "
                f"{worker.memory_mib / 1024:g} GiB",
                f"at most {largest.cpu_millicores / 1000:g} cores and {largest.memory_mib / 1024:.1f} GiB, which is "
                f"allocatable on the largest of {len(nodes)} ready nodes",
                f"pulumi config set workerCpu {largest.cpu_millicores / 2000:g} && "
                f"pulumi config set workerMemoryGiB {largest.memory_mib / 2048:.1f}",
            )
        )
    room = sum(node.count(worker) for node in nodes)
    if room < workers:
        return f"the ready nodes have room for {room} of {workers} workers, unless the cluster adds nodes"
    return None
