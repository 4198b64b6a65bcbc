"""Ways to reach the cluster: kubeconfig, and commands for people."""

from __future__ import annotations

import pulumi
import pulumi_gcp as gcp

from components.clouds.google.settings import GkeSettings
from components.clouds.kubeconfig import exec_plugin, kubeconfig

AUTH_PLUGIN = "gke-gcloud-auth-plugin"
INSTALL_AUTH_PLUGIN = "gcloud components install gke-gcloud-auth-plugin"


def reached_by_name(settings: GkeSettings) -> bool:
    """True where the Kubernetes API is reached by its DNS name, which needs no list of addresses."""
    return not settings.authorized_networks


def kubeconfig_of(cluster: gcp.container.Cluster, settings: GkeSettings) -> pulumi.Output[str]:
    """A kubeconfig without credentials: the plugin asks gcloud for them at each use."""

    def build(name: str, server: dict[str, str]) -> str:
        return kubeconfig(
            name, server, exec_plugin(AUTH_PLUGIN, installHint=INSTALL_AUTH_PLUGIN, provideClusterInfo=True)
        )

    if reached_by_name(settings):
        # Its certificate is signed by a public authority.
        server = cluster.control_plane_endpoints_config.apply(
            lambda config: {"server": f"https://{dns_endpoint(config)}"}
        )
    else:
        server = pulumi.Output.all(cluster.endpoint, cluster.master_auth.cluster_ca_certificate).apply(
            lambda parts: {"server": f"https://{parts[0]}", "certificate-authority-data": parts[1]}
        )
    return pulumi.Output.all(cluster.name, server).apply(lambda parts: build(*parts))


def dns_endpoint(config: gcp.container.outputs.ClusterControlPlaneEndpointsConfig) -> str:
    """The DNS name of the Kubernetes API."""
    return (config.dns_endpoint_config.endpoint if config.dns_endpoint_config else None) or ""


def kubeconfig_command(cluster: gcp.container.Cluster, settings: GkeSettings) -> pulumi.Output[str]:
    """The command that adds the cluster to a user's kubeconfig."""
    return pulumi.Output.concat(
        "gcloud container clusters get-credentials ",
        cluster.name,
        f" --location {settings.zone or settings.region} --project {settings.project}"
        + (" --dns-endpoint" if reached_by_name(settings) else ""),
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
