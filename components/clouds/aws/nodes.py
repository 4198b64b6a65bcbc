"""Node groups: one system node, and the workers' tainted nodes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pulumi
import pulumi_aws as aws

from components.clouds.aws.allocatable import worker_disk_gib
from components.clouds.aws.api import GONE, ask, ask_late, tagged_arns
from components.clouds.aws.iam import Role, create_role
from components.clouds.aws.location import Location
from components.clouds.aws.network import Network
from components.clouds.aws.settings import EksSettings
from components.clouds.base import WORKER_NODE_LABEL, WORKER_TAINT
from components.clouds.checks import found_or_none
from components.clouds.scope import Scope
from components.clouds.sizing import WorkerPool

SYSTEM_DISK_GIB = 50
"""Root disk of a system node, which holds the images and the scheduler's temporary files."""

NO_BALANCER_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
"""Label that keeps a node out of the targets of load balancers. Otherwise the end of a spot worker cuts connections to
the IDE that the load balancer sent through that node."""

WORKERS, ON_DEMAND = "workers", "on-demand"
"""Ends of the names of the workers' node groups: the preferred one, and the one that `spot: fallback` adds."""

MAX_SYSTEM_NODES = 3

MAX_UNAVAILABLE_PERCENTAGE = 33
"""Share of the worker nodes that an update of the group may drain at the same time."""

NEWEST_RELEASE = "/amazon-linux-2023/x86_64/standard/recommended/release_version"
"""End of the name of AWS's public parameter with the newest release of the nodes' machine image."""

KUBELET = """\
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="//"

--//
Content-Type: application/node.eks.aws

apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  kubelet:
    config:
      singleProcessOOMKill: true

--//--
"""
"""User data of a node, which EKS merges with its own. Otherwise the end of one R session for want of memory is that of
all sessions of its pod. The kubelet has the setting from Kubernetes 1.32 on. Source of the form:
https://awslabs.github.io/amazon-eks-ami/nodeadm/doc/examples/"""

NODE_POLICIES = {
    "join": "AmazonEKSWorkerNodePolicy",
    "pull": "AmazonEC2ContainerRegistryPullOnly",
    "shell": "AmazonSSMManagedInstanceCore",
}
"""Permissions of a node itself: to join the cluster, pull images, and accept Session Manager."""


@dataclass(frozen=True)
class NodeGroups:
    """The node groups of a cluster."""

    system: aws.eks.NodeGroup
    workers: tuple[aws.eks.NodeGroup, ...]
    """The workers' groups, the preferred one first."""


@dataclass(frozen=True)
class Scaling:
    """Numbers of nodes of a node group."""

    desired: int
    min: int
    max: int


Sizes = tuple[Scaling, Sequence[str]]
"""The size of a node group, and the inputs of which Pulumi ignores changes."""


@dataclass(frozen=True)
class CommonInputs:
    """Parts that every node group of a cluster has in common. depends_on: what a node cannot start without."""

    scope: Scope
    settings: EksSettings
    inputs: Mapping[str, Any]
    depends_on: Sequence[pulumi.Resource]


def prepare_nodes(
    scope: Scope, settings: EksSettings, partition: str, cluster: aws.eks.Cluster, depends_on: Sequence[pulumi.Resource]
) -> CommonInputs:
    """Creates the nodes' role; returns what every node group of the cluster has in common."""
    role = create_role(scope, "nodes", "ec2.amazonaws.com", partition, NODE_POLICIES)
    inputs = common_inputs(scope, settings, cluster, role)
    return CommonInputs(scope, settings, inputs, [*depends_on, *role.policies])


def create_node_groups(
    common: CommonInputs, location: Location, network: Network, pool: WorkerPool, sizes: Mapping[str, Sizes]
) -> NodeGroups:
    """The system node group and the worker node groups, of which there are two with `spot: fallback`.

    sizes: as `worker_scalings` returns them. Pulumi generates the groups' names, so that a replacement exists before
    the old group is deleted.
    """
    # One zone, because the disk of the scheduler's home cannot move to another.
    system = create_system_group(common, network.private[location.system_zone])
    inputs = {
        "launch_template": launch_template(common.scope, "workers", worker_disk_gib(pool.workers_per_node)),
        "subnet_ids": [network.private[zone] for zone in location.worker_zones],
        "instance_types": [machine.name for machine in location.worker_machines],
    }
    spot = {WORKERS} if common.settings.spot else set()
    groups = [
        create_worker_group(common, part, "SPOT" if part in spot else "ON_DEMAND", size, inputs)
        for part, size in sizes.items()
    ]
    return NodeGroups(system, tuple(groups))


def create_system_group(common: CommonInputs, subnet: pulumi.Input[str]) -> aws.eks.NodeGroup:
    """One node for the scheduler and Kubernetes' own pods. An autoscaler adds more where they do not fit."""
    scope, settings = common.scope, common.settings
    return aws.eks.NodeGroup(
        f"{scope.name}-system",
        **common.inputs,
        launch_template=launch_template(scope, "system", SYSTEM_DISK_GIB),
        subnet_ids=[subnet],
        instance_types=[settings.system_machine_type],
        capacity_type="ON_DEMAND",
        scaling_config=aws.eks.NodeGroupScalingConfigArgs(
            desired_size=1, min_size=1, max_size=MAX_SYSTEM_NODES if settings.autoscaled else 1
        ),
        update_config=aws.eks.NodeGroupUpdateConfigArgs(max_unavailable=1),
        labels={WORKER_NODE_LABEL: "system"},
        opts=scope.options(
            depends_on=common.depends_on,
            ignore_changes=["scalingConfig.desiredSize"] if settings.autoscaled else (),
            replace_on_changes=["instanceTypes"],
        ),
    )


def create_worker_group(
    common: CommonInputs, part: str, capacity: str, sizes: Sizes, inputs: Mapping[str, Any]
) -> aws.eks.NodeGroup:
    """Tainted nodes for workers. capacity: `SPOT` or `ON_DEMAND`. inputs: those of every worker group."""
    scaling, ignored = sizes
    return aws.eks.NodeGroup(
        f"{common.scope.name}-{part}",
        **common.inputs,
        **inputs,
        capacity_type=capacity,
        scaling_config=aws.eks.NodeGroupScalingConfigArgs(
            desired_size=scaling.desired, min_size=scaling.min, max_size=scaling.max
        ),
        update_config=aws.eks.NodeGroupUpdateConfigArgs(max_unavailable_percentage=MAX_UNAVAILABLE_PERCENTAGE),
        labels={WORKER_NODE_LABEL: "worker", NO_BALANCER_LABEL: "true"},
        taints=[aws.eks.NodeGroupTaintArgs(key=WORKER_TAINT["key"], value=WORKER_TAINT["value"], effect="NO_SCHEDULE")],
        opts=common.scope.options(
            depends_on=common.depends_on,
            ignore_changes=ignored,
            replace_on_changes=["instanceTypes", "capacityType", "subnetIds"],
        ),
    )


def common_inputs(scope: Scope, settings: EksSettings, cluster: aws.eks.Cluster, role: Role) -> dict[str, Any]:
    """Inputs that every node group has."""
    release = settings.node_release
    return {
        "cluster_name": cluster.name,
        "node_role_arn": role.role.arn,
        "ami_type": "AL2023_x86_64_STANDARD",
        # Without these EKS keeps the nodes at the version and the release that they were created with. Unset, the
        # release is the newest of a new version: a change of the number of workers must not replace the nodes.
        "version": cluster.version,
        "release_version": newest_release(scope, cluster) if release == "latest" else release,
        # Replaces a node that is not ready for half an hour, or that the monitoring agent reports as broken.
        "node_repair_config": aws.eks.NodeGroupNodeRepairConfigArgs(enabled=True),
        # EKS drains a changed node for 15 minutes. The scheduler's disruption budget forbids its eviction, so without
        # force this update and every later `pulumi up` would fail.
        "force_update_version": True,
    }


def newest_release(scope: Scope, cluster: aws.eks.Cluster) -> pulumi.Output[str]:
    """The newest release of the nodes' machine image for the cluster's version.

    Source: https://docs.aws.amazon.com/eks/latest/userguide/retrieve-ami-id.html
    """
    name = pulumi.Output.concat("/aws/service/eks/optimized-ami/", cluster.version, NEWEST_RELEASE)
    # Its `value` is a secret, as which the release would be hidden in every preview.
    found = ask_late(
        "the newest release of the nodes' machine image",
        aws.ssm.get_parameter_output(name=name, opts=scope.lookup_output),
    )
    return found.apply(lambda parameter: parameter.insecure_value)


def launch_template(scope: Scope, part: str, disk_gib: int) -> aws.eks.NodeGroupLaunchTemplateArgs:
    """Encrypted root disk, tags, the kubelet's setting, and a metadata service (version 2) that pods cannot reach."""
    template = aws.ec2.LaunchTemplate(
        f"{scope.name}-{part}",
        update_default_version=True,
        user_data=b64encode(KUBELET.encode()).decode(),
        metadata_options=aws.ec2.LaunchTemplateMetadataOptionsArgs(
            http_endpoint="enabled",
            http_tokens="required",
            # A pod is two hops away, so with a limit of one it cannot take the node's role.
            http_put_response_hop_limit=1,
        ),
        block_device_mappings=[
            aws.ec2.LaunchTemplateBlockDeviceMappingArgs(
                device_name="/dev/xvda",
                ebs=aws.ec2.LaunchTemplateBlockDeviceMappingEbsArgs(
                    volume_type="gp3", volume_size=disk_gib, encrypted="true", delete_on_termination="true"
                ),
            )
        ],
        # The provider's default tags do not reach resources that EC2 creates from a template.
        tag_specifications=[
            aws.ec2.LaunchTemplateTagSpecificationArgs(resource_type=kind, tags={"Name": scope.name, **scope.labels})
            for kind in ("instance", "volume", "network-interface")
        ],
        opts=scope.options(),
    )
    return aws.eks.NodeGroupLaunchTemplateArgs(id=template.id, version=template.latest_version.apply(str))


def worker_scalings(scope: Scope, settings: EksSettings, pool: WorkerPool) -> dict[str, Sizes]:
    """The sizes of the worker node groups by `WORKERS` and `ON_DEMAND`, of which the second is for a fallback.

    Raises CloudError where the live size is unknown, so call it before anything is created.
    """
    if not settings.autoscaled:
        return {WORKERS: (Scaling(pool.nodes, pool.nodes, pool.max_nodes), ())}
    parts = (WORKERS, ON_DEMAND) if settings.falls_back else (WORKERS,)
    arns = ask(LIVE, lambda: tagged_arns("eks:nodegroup", scope.labels["stack"], scope.lookup))
    return {part: autoscaled_size(live_scaling(scope, part, arns), pool) for part in parts}


def autoscaled_size(live: Scaling | None, pool: WorkerPool) -> Sizes:
    """The size of a worker node group that the autoscaler resizes. live: its present size.

    It starts with no node. Otherwise EKS would wait for the first nodes, and a zone
    without spot capacity would fail the whole update. Nodes that hold workers stay, so no least number is needed.
    EKS updates min, max and desired size in one call. With `desiredSize` ignored Pulumi would send its last known value
    and remove nodes that the autoscaler added, so send the live value when min or max change.
    """
    wanted = Scaling(0, 0, pool.max_nodes)
    if live and (live.min, live.max) != (wanted.min, wanted.max):
        return Scaling(min(max(live.desired, wanted.min), wanted.max), wanted.min, wanted.max), ()
    return wanted, ["scalingConfig.desiredSize"]


LIVE = "how many nodes the workers have, which the update must keep"


def live_scaling(scope: Scope, part: str, arns: Sequence[str]) -> Scaling | None:
    """The present size of one of the stack's worker node groups. arns: of the node groups with the stack's tag.

    None where there is no group, and where several match, as for two stacks of one name, which it says. Raises
    CloudError where AWS refuses the lookup: Pulumi would send its last known number, and end the nodes that the
    autoscaler added.
    """
    # arn:aws:eks:REGION:ACCOUNT:nodegroup/CLUSTER/GROUP/ID
    groups = [
        ask(LIVE, partial(find_group, cluster, group, scope.lookup))
        for cluster, group in (arn.split("/")[1:3] for arn in arns)
        if group.startswith(f"{scope.name}-{part}-")
    ]
    found = [group.scaling_configs[0] for group in groups if group]
    if len(found) > 1:
        pulumi.log.warn(
            f"{len(found)} node groups {scope.name}-{part} with this stack's tag: another stack has its name, or a "
            "replaced group is not deleted yet. A change of maxWorkers may now end nodes that the autoscaler added"
        )
    return Scaling(found[0].desired_size, found[0].min_size, found[0].max_size) if len(found) == 1 else None


def find_group(cluster: str, group: str, lookup: pulumi.InvokeOptions) -> aws.eks.GetNodeGroupResult | None:
    """A node group. None where it is gone. Raises Refusal where AWS refuses the lookup."""
    return found_or_none(lambda: aws.eks.get_node_group(cluster_name=cluster, node_group_name=group, opts=lookup), GONE)
