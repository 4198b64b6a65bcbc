"""Ways to reach the cluster: kubeconfig, and commands for people."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_gcp as gcp

from components.clouds.google.settings import GkeSettings
from components.clouds.kubeconfig import exec_plugin, kubeconfig

AUTH_PLUGIN = "gke-gcloud-auth-plugin"
INSTALL_AUTH_PLUGIN = "gcloud components install gke-gcloud-auth-plugin"


def kubeconfig_of(cluster: gcp.container.Cluster) -> pulumi.Output[str]:
    """A kubeconfig without credentials: the plugin asks gcloud for them at each use."""

    def build(parts: Sequence[str]) -> str:
        name, endpoint, certificate = parts
        return kubeconfig(
            name,
            {"server": f"https://{endpoint}", "certificate-authority-data": certificate},
            exec_plugin(AUTH_PLUGIN, installHint=INSTALL_AUTH_PLUGIN, provideClusterInfo=True),
        )

    return pulumi.Output.all(cluster.name, cluster.endpoint, cluster.master_auth.cluster_ca_certificate).apply(build)


def kubeconfig_command(cluster: gcp.container.Cluster, settings: GkeSettings) -> pulumi.Output[str]:
    """The command that adds the cluster to a user's kubeconfig."""
    return pulumi.Output.concat(
        "gcloud container clusters get-credentials ",
        cluster.name,
        f" --location {settings.zone or settings.region} --project {settings.project}",
    )


def kubectl(cluster: gcp.container.Cluster, settings: GkeSettings) -> pulumi.Output[str]:
    """The start of kubectl commands for this cluster, with the context that `kubeconfig_command` creates.

    Without the context a command could reach the cluster of another stack.
    """
    location = settings.zone or settings.region
    return pulumi.Output.concat(f"kubectl --context gke_{settings.project}_{location}_", cluster.name)


def node_shell(cluster: gcp.container.Cluster, settings: GkeSettings, zone: str) -> pulumi.Output[str]:
    """The command that opens a shell on a node of `zone`, through Identity-Aware Proxy."""
    return pulumi.Output.concat(
        'gcloud compute ssh "$(',
        kubectl(cluster, settings),
        f" get nodes --selector topology.kubernetes.io/zone={zone} --output name | head -n 1"
        f' | cut -d/ -f2)" --project {settings.project} --zone {zone} --tunnel-through-iap',
    )
