"""Checks of `kubernetesVersion` against EKS's versions and the running cluster."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws

from components.clouds.aws.api import GONE, tagged_arns
from components.clouds.aws.settings import EksSettings
from components.clouds.checks import CloudError, Refusal, ask_or_say, found_or_none, problem, say_unchecked
from components.clouds.labels import common_labels
from components.clouds.settings import minor


def check_version(settings: EksSettings, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError for a `kubernetesVersion` that EKS refuses: not offered, lower, or two minor versions higher.

    Reports what an upgrade restarts. Where AWS does not answer, the check passes.
    """
    wanted = settings.kubernetes_version
    if not wanted:
        return
    live = live_version(settings, lookup)
    if live == wanted:
        return
    if live and minor(wanted) < minor(live):
        refuse(wanted, f"{live}, the cluster's version, or 1.{minor(live) + 1}: EKS cannot go back", live)
    if live and minor(wanted) > minor(live) + 1:
        following = f"1.{minor(live) + 1}"
        refuse(
            wanted, f"{following}: the cluster has {live}, and EKS upgrades by one minor version at a time", following
        )
    offered = offered_versions(lookup)
    if offered and wanted not in offered:
        refuse(wanted, f"a version in standard support: {', '.join(offered)}", offered[-1])
    if live:
        pulumi.log.info(
            f"Kubernetes {live} becomes {wanted}: the control plane is upgraded first, then every node is replaced. "
            "Workers start again elsewhere. The scheduler moves after 15 minutes, which ends running R sessions."
        )


def refuse(wanted: str, allowed: str, fix: str) -> None:
    """Raises CloudError for a version. fix: the version to set instead."""
    raise CloudError(problem(f"kubernetesVersion is {wanted}", allowed, f"pulumi config set kubernetesVersion {fix}"))


def offered_versions(lookup: pulumi.InvokeOptions) -> list[str]:
    """The versions in EKS's standard support, in order. Empty where the lookup is refused."""
    found = ask_or_say(
        "whether EKS offers kubernetesVersion",
        lambda: aws.eks.get_cluster_versions(version_status="STANDARD_SUPPORT", opts=lookup),
    )
    return sorted({each.cluster_version for each in found.cluster_versions}, key=minor) if found else []


def live_version(settings: EksSettings, lookup: pulumi.InvokeOptions) -> str | None:
    """The version of the stack's running cluster.

    None where there is none, where the lookup is refused, and where several clusters have the stack's tag.
    """
    # arn:aws:eks:REGION:ACCOUNT:cluster/NAME. AWS lists a deleted cluster for a while.
    unchecked = "whether the cluster can be upgraded to kubernetesVersion"
    stack = common_labels(settings)["stack"]
    arns = ask_or_say(unchecked, lambda: tagged_arns("eks:cluster", stack, lookup)) or []
    names = [arn.rsplit("/", 1)[-1] for arn in arns]
    found = [cluster for cluster in (describe_cluster(name, lookup) for name in names) if cluster]
    if len(found) > 1:
        pulumi.log.info(f"not checked: {unchecked}. Reason: {len(found)} clusters have this stack's tag")
    return found[0].version if len(found) == 1 else None


def describe_cluster(name: str, lookup: pulumi.InvokeOptions) -> aws.eks.GetClusterResult | None:
    """A cluster, or None where it is gone or the lookup is refused."""
    try:
        return found_or_none(lambda: aws.eks.get_cluster(name=name, opts=lookup), GONE)
    except Refusal as error:
        say_unchecked(f"whether cluster {name} can be upgraded to kubernetesVersion", error)
        return None
