"""Checks of `kubernetesVersion` against GKE's release channel and the running cluster.

The provider's data sources know neither the versions of a channel nor a cluster by its label, so the program asks the
Kubernetes Engine API (v1) itself: https://cloud.google.com/kubernetes-engine/docs/reference/rest.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_gcp as gcp

from components.clouds.checks import CloudError, Refusal, ask_or_say, problem
from components.clouds.google import rest
from components.clouds.google.settings import GkeSettings
from components.clouds.labels import common_labels
from components.clouds.settings import minor

ADDRESS = "https://container.googleapis.com/v1"
CHANNEL = "REGULAR"
"""The release channel of every cluster (https://cloud.google.com/kubernetes-engine/docs/concepts/release-channels)."""

OFFERED_FIELDS = "channels(channel,validVersions)"
CLUSTER_FIELDS = "clusters(resourceLabels,status,currentMasterVersion,nodePools/version)"


def check_version(settings: GkeSettings, lookup: pulumi.InvokeOptions) -> bool:
    """True if this update must bring the nodes to `kubernetesVersion`: they run an older minor version.

    Raises CloudError for a version that GKE refuses: not in the channel, or two minor versions above the cluster's.
    Reports what an upgrade restarts. Where Google does not answer, the check passes, and the nodes are left to GKE.
    """
    wanted = settings.kubernetes_version
    if not wanted:
        return False
    api = Api(settings, lookup)
    cluster = ask_or_say("whether the cluster can be upgraded to kubernetesVersion", api.cluster)
    live = cluster["currentMasterVersion"] if cluster else None
    if live and minor(wanted) > minor(live) + 1:
        following = f"1.{minor(live) + 1}"
        refuse(
            wanted,
            f"{following}: the cluster has {live}, and GKE upgrades a control plane by one minor version at a time",
            following,
        )
    if not live or minor(wanted) > minor(live):
        offered = ask_or_say("whether GKE offers kubernetesVersion", api.offered) or []
        if offered and wanted not in offered:
            refuse(wanted, f"a version of release channel {CHANNEL}: {', '.join(offered)}", offered[-1])
    if not cluster or not live:
        return False
    if minor(wanted) < minor(live):
        pulumi.log.info(
            f"kubernetesVersion is {wanted}, and the cluster has {live}: Google has upgraded it, and GKE cannot go back"
        )
    behind = [version for version in versions_of_pools(cluster) if minor(version) < minor(wanted)]
    if behind or minor(wanted) > minor(live):
        pulumi.log.info(
            f"Kubernetes {live} (nodes: {', '.join(behind) or 'of the same version'}) becomes {wanted}: the control "
            "plane is upgraded first, then every node is replaced. Workers start again elsewhere, and the scheduler "
            "moves, which ends running R sessions. maintenanceWindow does not delay this."
        )
    return bool(behind)


def refuse(wanted: str, allowed: str, fix: str) -> None:
    """Raises CloudError for a version. fix: the version to set instead."""
    raise CloudError(problem(f"kubernetesVersion is {wanted}", allowed, f"pulumi config set kubernetesVersion {fix}"))


def versions_of_pools(cluster: Mapping[str, Any]) -> list[str]:
    """The different versions of a cluster's nodes, in order."""
    found = {pool["version"] for pool in cluster.get("nodePools", []) if pool.get("version")}
    return sorted(found, key=minor)


class Api:
    """The Kubernetes Engine API, asked with the caller's own token. Its methods raise Refusal."""

    def __init__(self, settings: GkeSettings, lookup: pulumi.InvokeOptions) -> None:
        self.settings = settings
        self.lookup = lookup

    def offered(self) -> list[str]:
        """The minor versions of the release channel, in order."""
        answer = self.get(f"locations/{self.settings.zone or self.settings.region}/serverConfig", OFFERED_FIELDS)
        valid = [
            version
            for channel in answer.get("channels", [])
            if channel.get("channel") == CHANNEL
            for version in channel.get("validVersions", [])
        ]
        return sorted({f"1.{minor(version)}" for version in valid}, key=minor)

    def cluster(self) -> dict[str, Any] | None:
        """The stack's running cluster. None where there is none. Raises Refusal where several have its label."""
        stack = common_labels(self.settings)["stack"]
        found = [
            cluster
            for cluster in self.get("locations/-/clusters", CLUSTER_FIELDS).get("clusters", [])
            if cluster.get("resourceLabels", {}).get("stack") == stack
            and cluster.get("status") != "STOPPING"
            and cluster.get("currentMasterVersion")
        ]
        if len(found) > 1:
            raise Refusal(f"{len(found)} clusters have this stack's label")
        return found[0] if found else None

    def get(self, path: str, fields: str) -> dict[str, Any]:
        """The API's answer about the project."""
        client = gcp.organizations.get_client_config(opts=self.lookup)
        url = f"{ADDRESS}/projects/{self.settings.project}/{path}?{urllib.parse.urlencode({'fields': fields})}"
        return rest.fetch(url, "", client.access_token)
