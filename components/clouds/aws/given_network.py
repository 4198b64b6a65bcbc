"""Checks of a VPC and subnets that exist already: membership, zones, DNS, and the way to the internet."""

from __future__ import annotations

from functools import partial

import pulumi
import pulumi_aws as aws

from components.clouds.aws.api import ask
from components.clouds.aws.settings import EksSettings
from components.clouds.checks import CloudError, ask_or_none, problem

Subnet = aws.ec2.GetSubnetResult


def find_given_subnets(settings: EksSettings, lookup: pulumi.InvokeOptions) -> dict[str, Subnet]:
    """Zone to private subnet of the given network.

    Raises CloudError where a private or public subnet is not of that network, where all private subnets are in one
    zone, and for a network in which nodes could not join the cluster.
    """
    list_subnets = (
        f"aws ec2 describe-subnets --region {settings.region} --filters Name=vpc-id,Values={settings.network}"
    )
    by_zone: dict[str, Subnet] = {}
    keyed = (("subnets", settings.subnets), ("publicSubnets", settings.public_subnets))
    for key, subnet in ((key, subnet) for key, subnets in keyed for subnet in subnets):
        found = ask(f"where subnet {subnet} is", partial(aws.ec2.get_subnet, id=subnet, opts=lookup))
        if found.vpc_id != settings.network:
            raise CloudError(
                problem(
                    f"{key} has {subnet}, which is in {found.vpc_id}",
                    f"subnets of {settings.network} (network)",
                    list_subnets,
                )
            )
        if key == "subnets":
            by_zone.setdefault(found.availability_zone, found)
    if len(by_zone) < 2:
        raise CloudError(
            problem(
                f"subnets are all in zone {', '.join(by_zone)}",
                "subnets in two zones at least, which EKS requires for its control plane",
                list_subnets,
            )
        )
    check_dns(settings, lookup)
    for private in by_zone.values():
        check_way_out(settings, private, lookup)
    return by_zone


def check_dns(settings: EksSettings, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError for a VPC without DNS: nodes would not find the control plane's private endpoint, nor EFS.

    Source: https://docs.aws.amazon.com/eks/latest/userguide/network-reqs.html
    """
    found = ask(f"what {settings.network} is", lambda: aws.ec2.get_vpc(id=settings.network, opts=lookup))
    attributes = {"enable-dns-support": found.enable_dns_support, "enable-dns-hostnames": found.enable_dns_hostnames}
    for name, enabled in attributes.items():
        if not enabled:
            raise CloudError(
                problem(
                    f"network is {settings.network}, which has {name} switched off",
                    "a VPC with enable-dns-support and enable-dns-hostnames, by which nodes find the control plane",
                    f"aws ec2 modify-vpc-attribute --region {settings.region} --vpc-id {settings.network} --{name} "
                    """'{"Value":true}'""",
                )
            )


def check_way_out(settings: EksSettings, subnet: Subnet, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError for a subnet without a way to the internet, from which no node can join the cluster.

    Nodes have no public address, so an internet gateway is no way for them unless the subnet assigns one. Where AWS
    does not show the route table, and where a route leads to a list of networks, the check passes.
    """
    own = ask_or_none(lambda: aws.ec2.get_route_table(subnet_id=subnet.id, opts=lookup))
    main = aws.ec2.GetRouteTableFilterArgs(name="association.main", values=["true"])
    table = own or ask_or_none(lambda: aws.ec2.get_route_table(vpc_id=settings.network, filters=[main], opts=lookup))
    if not table:
        return
    allowed = "a subnet whose route 0.0.0.0/0 leads to a NAT gateway, a transit gateway or an appliance"
    fix = f"aws ec2 describe-route-tables --region {settings.region} --route-table-ids {table.route_table_id}"
    defaults = [route for route in table.routes if route.cidr_block == "0.0.0.0/0"]
    listed = [route for route in table.routes if route.destination_prefix_list_id and not to_endpoint(route)]
    if not defaults and not listed:
        raise CloudError(problem(f"subnets has {subnet.id}, which has no way to the internet", allowed, fix))
    public = any(route.gateway_id.startswith("igw-") for route in defaults)
    if public and not subnet.map_public_ip_on_launch:
        given = f"subnets has {subnet.id}, which reaches the internet only by public addresses, and nodes have none"
        raise CloudError(problem(given, allowed, fix))


def to_endpoint(route: aws.ec2.outputs.GetRouteTableRouteResult) -> bool:
    """True if a route leads to one service of AWS, such as S3."""
    return "vpce-" in f"{route.gateway_id} {route.vpc_endpoint_id}"
