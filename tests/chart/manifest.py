"""Finds pods, containers, mounts and objects in a rendered chart."""

from collections.abc import Iterator, Mapping
from typing import Any

Object = dict[str, Any]
Objects = dict[tuple[str, str], Object]

SCHEDULER = "lab-future-kubernetes-scheduler"
WORKER = "lab-future-kubernetes-worker"


def pods(objects: Objects) -> Iterator[Object]:
    """Every pod or pod template, as an object with metadata and spec."""
    for (kind, _), found in objects.items():
        if kind == "Pod":
            yield found
        elif kind == "Deployment":
            yield found["spec"]["template"]


def pod(objects: Objects, component: str) -> Object:
    """The one pod of a component: scheduler, worker or test."""
    [found] = [pod for pod in pods(objects) if pod["metadata"]["labels"]["component"] == component]
    return found


def container(objects: Objects, component: str) -> Object:
    [found] = pod(objects, component)["spec"]["containers"]
    return dict(found)


def mounts(objects: Objects, component: str) -> dict[str, Object]:
    """For each path that a pod mounts, the volume that is there."""
    volumes = {volume["name"]: volume for volume in pod(objects, component)["spec"].get("volumes", [])}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container(objects, component)["volumeMounts"]}
    assert len(mounted) == len(volumes), "a volume is mounted nowhere, or two at one path"
    return mounted


def one(objects: Objects, kind: str, end: str) -> Object:
    """The object of a kind whose name ends so."""
    [found] = [found for (its_kind, name), found in objects.items() if its_kind == kind and name.endswith(end)]
    return found


def env(objects: Objects, component: str) -> dict[str, Object]:
    return {variable["name"]: variable for variable in container(objects, component)["env"]}


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()
