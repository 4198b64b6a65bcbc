"""Ways to reach the cluster: kubeconfig, commands for people, and the load balancer of `host`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_aws as aws

from components.clouds.aws.network import Network
from components.clouds.kubeconfig import exec_plugin, kubeconfig
from components.clouds.scope import Scope


def kubeconfig_of(cluster: aws.eks.Cluster, region: str) -> pulumi.Output[str]:
    """A kubeconfig without credentials: the AWS CLI fetches them at each use."""

    def build(parts: Sequence[str]) -> str:
        name, endpoint, certificate = parts
        arguments = ("--region", region, "--cluster-name", name, "--output", "json")
        return kubeconfig(
            name,
            {"server": endpoint, "certificate-authority-data": certificate},
            exec_plugin("aws", "eks", "get-token", *arguments, interactiveMode="Never"),
        )

    return pulumi.Output.all(cluster.name, cluster.endpoint, cluster.certificate_authority["data"]).apply(build)


def kubeconfig_command(cluster: aws.eks.Cluster, region: str) -> pulumi.Output[str]:
    """The command that adds the cluster to a user's kubeconfig, under its own name."""
    return cluster.name.apply(lambda name: f"aws eks update-kubeconfig --region {region} --name {name} --alias {name}")


def kubectl(cluster: aws.eks.Cluster) -> pulumi.Output[str]:
    """The start of kubectl commands for this cluster."""
    return pulumi.Output.concat("kubectl --context ", cluster.name)


def node_shell(cluster: aws.eks.Cluster, region: str) -> pulumi.Output[str]:
    """The command that opens a shell on a node, through Session Manager."""
    return pulumi.Output.concat(
        f'aws ssm start-session --region {region} --target "$(',
        kubectl(cluster),
        " get nodes --output jsonpath='{.items[0].spec.providerID}' | cut -d/ -f5)\"",
    )


def reserve_addresses(scope: Scope, network: Network) -> list[aws.ec2.Eip]:
    """Public addresses for the load balancer of `host`, one in each of its subnets.

    Known before the load balancer exists, and the same for as long as the stack has `host`: what DNS points to.
    """
    return [
        aws.ec2.Eip(
            f"{scope.name}-public-{index}",
            domain="vpc",
            tags={"Name": f"{scope.name}-public-{index}"},
            opts=scope.options(depends_on=network.egress),
        )
        for index, _ in enumerate(network.public)
    ]


def load_balancer_annotations(
    tags: Mapping[str, str], network: Network, addresses: Sequence[aws.ec2.Eip]
) -> dict[str, pulumi.Input[str]]:
    """Annotations by which EKS creates a network load balancer that faces the internet and carries the tags.

    addresses: reserved, one for each public subnet (https://cloud-provider-aws.sigs.k8s.io/service_controller/).
    """
    prefix = "service.beta.kubernetes.io/aws-load-balancer"
    return {
        f"{prefix}-subnets": pulumi.Output.all(*network.public).apply(",".join),
        f"{prefix}-eip-allocations": pulumi.Output.all(*(each.allocation_id for each in addresses)).apply(",".join),
        f"{prefix}-type": "nlb",
        f"{prefix}-cross-zone-load-balancing-enabled": "true",
        f"{prefix}-additional-resource-tags": ",".join(f"{key}={value}" for key, value in tags.items()),
    }
