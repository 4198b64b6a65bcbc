"""The settings of a stack on a cluster that exists already: by kubeconfig, or the one on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from components.settings.errors import Problem
from components.settings.fields import (
    Allowed,
    Cores,
    ImageReference,
    Items,
    KubeconfigPath,
    KubeconfigText,
    Line,
    items,
    matching,
    setting,
    whole_number,
)
from components.settings.model import Settings

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
NODE_KEY = rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{WORD}"
TOLERATION = rf"(?P<key>{NODE_KEY})(=(?P<value>({WORD})?))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
WORKER_CORES = 0.9
"""Cores that a worker requests where `workerCpu` is not set: a core less what a node reserves."""


def node_labels(value: Any) -> dict[str, str]:
    """Labels of nodes from a YAML map or from `a=b,c=d`."""
    if not isinstance(value, Mapping):
        parts = items(value)
        unpaired = next((part for part in parts if "=" not in str(part)), None)
        if unpaired is not None:
            raise ValueError(f"{unpaired!r} has no =")
        value = dict(part.split("=", 1) for part in parts)
    # YAML reads `true` as a truth value, and a label is text.
    texts = {str(key): str(entry).lower() if isinstance(entry, bool) else str(entry) for key, entry in value.items()}
    for key, entry in texts.items():
        if not re.fullmatch(NODE_KEY, key) or not re.fullmatch(f"({WORD})?", entry):
            raise ValueError(f"{key}={entry} is no label")
    return texts


NodeLabels = Annotated[
    dict[str, str],
    BeforeValidator(node_labels),
    Allowed("name=value pairs with commas between, such as pool=statistics"),
]
Toleration = Annotated[
    str, matching(TOLERATION), Allowed("a taint as kubectl writes it, such as dedicated=statistics:NoSchedule")
]
SecretName = Annotated[
    str, matching(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"), Allowed("the name of a Secret in the namespace")
]


def port_number(value: Any) -> int:
    """A port from config text."""
    port = whole_number(value)
    if not 1 <= port <= 65535:
        raise ValueError
    return port


Port = Annotated[int, BeforeValidator(port_number), Allowed("a port from 1 to 65535")]


def kubeconfig_path(default_words: str) -> Any:
    """The setting `kubeconfig`. It is never shown, since it may be a kubeconfig itself, with its credentials."""
    return setting(None, "Path of a kubeconfig", default_words=default_words, shown=False, example="~/.kube/config")


class ExistingSettings(Settings):
    """Access to an existing cluster."""

    kubeconfig: KubeconfigPath | None = kubeconfig_path("$KUBECONFIG, else ~/.kube/config")
    context: Line | None = setting(
        None, "Context in the kubeconfig", default_words="the current one", example="my-context"
    )


class LocalSettings(ExistingSettings):
    """This machine: the Kubernetes that `make up` starts on it."""

    cloud: Literal["local"] = "local"
    kubeconfig: KubeconfigPath | None = kubeconfig_path("the one that `make up` writes")
    image: ImageReference = setting(
        description="Image to run, which `make up` builds and passes on",
        missing="the image that `make up` builds and hands over",
        fix="make up",
        example="127.0.0.1:5000/future-kubernetes:dev",
    )


class KubeconfigSettings(ExistingSettings):
    """Any existing cluster that a kubeconfig reaches, also one that another stack created."""

    cloud: Literal["kubeconfig"] = "kubeconfig"
    image: ImageReference = setting(
        description="Image to run; a tag is pinned to its digest",
        missing="the reference of an image that the cluster can pull (this cloud brings no registry of its own)",
        example="ghcr.io/org/future-kubernetes:1.0",
    )
    kubeconfig_text: KubeconfigText | None = setting(
        None,
        "A kubeconfig itself, such as another stack's output: pulumi stack output kubeconfig --stack OTHER "
        "--show-secrets | pulumi config set --secret kubeconfigText",
        secret=True,
    )

    keep_home: bool = setting(
        False,
        "Have `pulumi destroy` leave the claim of the home, which the next `pulumi up` of the same stack uses "
        "again; only in a namespace that the stack does not create",
        example="true",
    )
    any_user: bool = setting(
        False,
        "Run pods as a user that the cluster chooses, as OpenShift's SCC `restricted-v2` does, and not as user 1000",
        example="true",
    )
    image_pull_secrets: Items[SecretName] = setting(
        (), "Secrets of the namespace with the login to the registry of `image`", example="registry-login"
    )
    worker_cpu_limit: Cores | None = setting(
        None,
        "Cores that each worker may use at most, which some quotas ask for",
        default_words="no limit: unrequested cores may be used",
        ge=0.01,
        le=512,
        example=2,
    )
    scheduler_cpu_limit: Cores | None = setting(
        None,
        "Cores that the scheduler may use at most, which some quotas ask for",
        default_words="no limit",
        ge=0.05,
        le=512,
        example=4,
    )
    node_selector: NodeLabels = setting(
        {}, "Labels of the nodes on which scheduler and workers may run", default_words="any", example="pool=statistics"
    )
    tolerations: Items[Toleration] = setting(
        (),
        "Taints that scheduler and workers tolerate",
        default_words="none, and for workers that of a worker pool of another stack",
        example="dedicated=statistics:NoSchedule",
    )
    dns_ports: Items[Port] = setting(
        (), "Ports of the cluster's DNS pods, which are 5353 on OpenShift", default_words="53", example="53,5353"
    )
    api_server_ports: Items[Port] = setting(
        (),
        "Ports of the Kubernetes API's endpoints: `kubectl get endpoints kubernetes`",
        default_words="443 and 6443",
        example="443,16443",
    )

    def contradictions(self) -> Iterator[Problem]:
        """Adds: two kubeconfigs, packages, since no image is built, Secrets of a new namespace, limits too low."""
        yield from super().contradictions()
        if self.image_pull_secrets and self.makes_namespace:
            yield Problem(
                "imagePullSecrets",
                "set, and the stack creates the namespace",
                "only in a namespace that exists before, since the Secrets must be in it when the pods start",
                f"kubectl create namespace {self.namespace}, create the Secrets in it, then "
                "pulumi config set createNamespace false",
                others=("createNamespace", "namespace"),
            )
        yield from self._kept_home()
        yield from self._low_limits()
        for name, value in (("rPackages", self.r_packages), ("aptPackages", self.apt_packages)):
            if value:
                only = "only where the image is built; on this cloud it is given, by image"
                yield Problem(name, "set", only, f"pulumi config rm {name}")
        if self.kubeconfig and self.kubeconfig_text:
            fix = "pulumi config rm kubeconfig"
            yield Problem("kubeconfig", "set, and so is kubeconfigText", "one of them", fix, others=("kubeconfigText",))

    def _kept_home(self) -> Iterator[Problem]:
        """A home that is to stay where nothing stays."""
        if self.keep_home and not self.home_gib:
            fix = "pulumi config rm keepHome, or pulumi config set homeGiB 10"
            yield Problem("keepHome", "set, and homeGiB is 0", "only with a home on a disk", fix, others=("homeGiB",))
        if self.keep_home and self.makes_namespace:
            yield Problem(
                "keepHome",
                "set, and the stack creates the namespace",
                "only in a namespace that exists before: with its own, pulumi destroy deletes every claim in it",
                f"kubectl create namespace {self.namespace}, then pulumi config set createNamespace false",
                others=("createNamespace", "namespace"),
            )

    def _low_limits(self) -> Iterator[Problem]:
        """Limits of CPU below the request, which Kubernetes refuses."""
        for name, limit, request_key, request in (
            ("workerCpuLimit", self.worker_cpu_limit, "workerCpu", self.worker_cpu or WORKER_CORES),
            ("schedulerCpuLimit", self.scheduler_cpu_limit, "schedulerCpu", self.scheduler_cpu),
        ):
            if limit is not None and limit < request:
                yield Problem(
                    name,
                    f"{limit:g}",
                    f"at least what is requested ({request_key}), {request:g}",
                    self.key(name).command(f"{request:g}"),
                    others=(request_key,),
                )


def toleration(taint: str) -> dict[str, str]:
    """The toleration of a taint in kubectl's notation. Without a value it holds for all values."""
    found = re.fullmatch(TOLERATION, taint)
    assert found
    parts = {"key": found["key"], "operator": "Exists" if found["value"] is None else "Equal"}
    if found["value"]:
        parts["value"] = found["value"]
    return {**parts, "effect": found["effect"]} if found["effect"] else parts
