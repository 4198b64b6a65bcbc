"""An existing cluster, reached by a kubeconfig: one on campus, on Azure, or one that another stack made.

Nothing of the cluster itself is managed. Before anything is created kubectl is asked whether the cluster answers and
whether its nodes can hold a worker.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components.clouds.base import GUEST_PLACEMENT, Cluster, Placement, PodSize, home_claim, scheduler_size
from components.clouds.existing.access import Access, kubeconfig_files, read_access, text_access
from components.clouds.existing.home import check_home
from components.clouds.existing.namespace import check_namespace
from components.clouds.existing.nodes import check_fit, check_operator, check_pull_secrets, read_nodes
from components.clouds.existing.settings import WORKER_CORES, KubeconfigSettings, toleration

WORKER_MIB = 2048
"""Memory that a worker requests on nodes of unknown kinds."""


class ExistingCluster(Cluster):
    """A cluster that is no resource of the stack."""

    def use(self, name: str, access: Access) -> None:
        """Sets the kubeconfig and the Kubernetes provider for `access`."""
        self.kubeconfig = pulumi.Output.secret(access.text)
        self.provider = kubernetes.Provider(
            name,
            kubeconfig=self.kubeconfig,
            cluster_identifier=access.identity,
            opts=pulumi.ResourceOptions(parent=self),
        )


class KubeconfigCluster(ExistingCluster):
    """A cluster behind a kubeconfig. Raises KubeconfigError before anything is created where it cannot be used."""

    def __init__(self, name: str, settings: KubeconfigSettings, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("future-kubernetes:index:KubeconfigCluster", name, None, opts)
        access = chosen_access(settings)
        self.scheduler_size = replace(
            scheduler_size(settings), cpu_limit_millicores=millicores(settings.scheduler_cpu_limit)
        )
        self.worker_size = worker_size(settings)
        chosen = Placement(settings.node_selector, tuple(toleration(each) for each in settings.tolerations))
        self.scheduler_placement = chosen
        self.worker_placement = replace(
            GUEST_PLACEMENT,
            node_selector=chosen.node_selector,
            tolerations=(*GUEST_PLACEMENT.tolerations, *chosen.tolerations),
        )
        self.own_values = own_values(settings)
        nodes = read_nodes(access, self.worker_placement)
        check_home(access, settings)
        check_namespace(access, settings, self.scheduler_size, self.worker_size)
        self.home_words = home_words(settings)
        check_pull_secrets(access, settings.namespace, settings.image_pull_secrets)
        if settings.monitoring:
            check_operator(access)
        if nodes is None:
            pulumi.log.info("the nodes for workers cannot be read, so whether workers fit is not checked", self)
            self.nodes = "an existing cluster"
        else:
            warning = check_fit(nodes, self.worker_size, settings.workers)
            if warning:
                pulumi.log.warn(warning, self)
            self.nodes = f"{len(nodes)} ready nodes of an existing cluster"
        self.use(name, access)
        self.kubeconfig_command, self.kubectl = commands(name, settings, access)
        self.node_shell = f"{self.kubectl} debug node/NODE --stdin --tty --image=busybox"
        self.register_outputs({"kubeconfig": self.kubeconfig})


def chosen_access(settings: KubeconfigSettings) -> Access:
    """The context that the settings choose, out of a kubeconfig's text or files."""
    if settings.kubeconfig_text:
        return text_access(settings.kubeconfig_text.get_secret_value(), settings.context)
    return read_access(kubeconfig_files(settings.kubeconfig), settings.context)


def worker_size(settings: KubeconfigSettings) -> PodSize:
    """Requests of a worker. They depend on no node: the cluster's next node may be of another kind."""
    cpu, memory = settings.worker_cpu or WORKER_CORES, settings.worker_memory_gib
    return PodSize(
        round(cpu * 1000),
        round(memory * 1024) if memory else WORKER_MIB,
        cpu_limit_millicores=millicores(settings.worker_cpu_limit),
    )


def millicores(cores: float | None) -> int | None:
    """Thousandths of a core; None for None."""
    return None if cores is None else round(cores * 1000)


def own_values(settings: KubeconfigSettings) -> dict[str, Any]:
    """Values of the chart for settings that only this cloud has. Without a setting the chart's default holds."""
    ports = {"dnsPorts": settings.dns_ports, "apiServerPorts": settings.api_server_ports}
    values: dict[str, Any] = {"networkPolicy": {name: list(each) for name, each in ports.items() if each}}
    if settings.keep_home:
        values["scheduler"] = {"keepHome": True}
    if settings.any_user:
        values["anyUser"] = True
    if settings.image_pull_secrets:
        values["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return values


def home_words(settings: KubeconfigSettings) -> str:
    """The end of the home at `pulumi destroy`, for the output `home`."""
    if not settings.home_gib:
        return "none: files are lost with the pod (homeGiB is 0)"
    if settings.keep_home:
        claim = f"claim {home_claim(settings)} in namespace {settings.namespace}"
        return f"kept: pulumi destroy leaves {claim}, which the next pulumi up uses"
    return "deleted by pulumi destroy; keepHome keeps it in a namespace that the stack did not create"


def commands(name: str, settings: KubeconfigSettings, access: Access) -> tuple[str, str]:
    """The command that gives a person access to the cluster, and how kubectl is then called."""
    # Without a setting kubectl finds the file by itself, as this program did.
    path = f"~/.kube/{name}" if settings.kubeconfig_text else settings.kubeconfig
    option = f"--kubeconfig {shell_path(path)} " if path else ""
    get_access = f"kubectl {option}config use-context {shlex.quote(access.context)}"
    if settings.kubeconfig_text:
        output = f"pulumi stack output kubeconfig --show-secrets --stack {shlex.quote(settings.stack)}"
        get_access = f"mkdir -p ~/.kube && (umask 077 && {output} > {path})"
    return get_access, f"kubectl {option}--context {shlex.quote(access.context)}"


def shell_path(path: str) -> str:
    """A path for a shell, as the user wrote it: quoted, except a leading `~/`, which means each reader's own home."""
    home, rest = ("~/", path[2:]) if path.startswith("~/") else ("", path)
    return home + shlex.quote(rest)
