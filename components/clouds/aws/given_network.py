"""Checks of a VPC and subnets that exist already: membership, zones, DNS, and the way to the internet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import pulumi
import pulumi_aws as aws

from components.clouds.aws.api import ask
from components.clouds.aws.settings import EksSettings
from components.clouds.checks import CloudError, ask_or_none, ask_or_say, problem

Subnet = aws.ec2.GetSubnetResult


def find_given_subnets(settings: EksSettings, lookup: pulumi.InvokeOptions) -> dict[str, Subnet]:
    """Zone to private subnet of the given network.

    Raises CloudError where a subnet is not of that network, where all are in one zone, and for a network in which nodes
    could not join the cluster.
    """
    by_zone: dict[str, Subnet] = {}
    for found in find_subnets("subnets", settings.subnets, settings, lookup):
        by_zone.setdefault(found.availability_zone, found)
    if len(by_zone) < 2:
        raise CloudError(
            problem(
                f"subnets are all in zone {', '.join(by_zone)}",
                "subnets in two zones at least, which EKS requires for its control plane",
                list_subnets(settings),
            )
        )
    check_dns(settings, lookup)
    for private in by_zone.values():
        check_way_out(settings, private, lookup)
    return by_zone


def check_public_subnets(settings: EksSettings, system_zone: str, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError where a load balancer in `publicSubnets` would be refused, or not reach the system node.

    A load balancer has one subnet in a zone, and sends nothing to nodes of zones in which it has none
    (https://docs.aws.amazon.com/elasticloadbalancing/latest/network/network-load-balancers.html#availability-zones).
    """
    zones: dict[str, str] = {}
    for found in find_subnets("publicSubnets", settings.public_subnets, settings, lookup):
        other = zones.setdefault(found.availability_zone, found.id)
        if other != found.id:
            raise CloudError(
                problem(
                    f"publicSubnets has {other} and {found.id}, both in zone {found.availability_zone}",
                    "one public subnet a zone, as load balancers have them",
                    f"pulumi config set publicSubnets {','.join(zones.values())}",
                )
            )
    if zones and system_zone not in zones:
        raise CloudError(
            problem(
                f"publicSubnets are in zone {', '.join(zones)}, and the scheduler's node in {system_zone}",
                f"a public subnet in {system_zone} among them, without which the load balancer does not reach the node",
                list_subnets(settings),
            )
        )


def find_subnets(
    key: str, subnets: Sequence[str], settings: EksSettings, lookup: pulumi.InvokeOptions
) -> Iterator[Subnet]:
    """The subnets that a setting names. Raises CloudError where one is not of the given network."""
    for subnet in subnets:
        found = ask(f"where subnet {subnet} is", partial(aws.ec2.get_subnet, id=subnet, opts=lookup))
        if found.vpc_id != settings.network:
            raise CloudError(
                problem(
                    f"{key} has {subnet}, which is in {found.vpc_id}",
                    f"subnets of {settings.network} (network)",
                    list_subnets(settings),
                )
            )
        yield found


def list_subnets(settings: EksSettings) -> str:
    """The command that lists the subnets of the given network."""
    return f"aws ec2 describe-subnets --region {settings.region} --filters Name=vpc-id,Values={settings.network}"


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
    does not show the route table, the check says so. Where a route leads to a list of networks, it passes.
    """
    own = ask_or_none(lambda: aws.ec2.get_route_table(subnet_id=subnet.id, opts=lookup))  # of most, the VPC's main one
    main = aws.ec2.GetRouteTableFilterArgs(name="association.main", values=["true"])
    table = own or ask_or_say(
        f"whether {subnet.id} has a way to the internet",
        lambda: aws.ec2.get_route_table(vpc_id=settings.network, filters=[main], opts=lookup),
    )
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
