"""The VPC of a stack: private subnets for nodes, public ones for NAT gateways and load balancers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.clouds.aws.addresses import public_range
from components.clouds.aws.location import Location
from components.clouds.aws.settings import EksSettings
from components.clouds.scope import Scope


@dataclass(frozen=True)
class Network:
    """The network of the nodes.

    private: zone to private subnet. public: public subnets for the load balancer of `host`; in a new network that of
    the system node's zone. egress: resources without which a node reaches neither AWS nor the internet.
    """

    vpc: pulumi.Input[str]
    private: Mapping[str, pulumi.Input[str]]
    public: Sequence[pulumi.Input[str]]
    egress: Sequence[pulumi.Resource]


def create_network(scope: Scope, settings: EksSettings, location: Location) -> Network:
    """The given VPC, or a new one over the location's zones."""
    if settings.network:
        return Network(settings.network, dict(location.given_subnets), settings.public_subnets, [])
    name, zones = scope.name, location.network_zones
    vpc = aws.ec2.Vpc(
        f"{name}-vpc",
        cidr_block=settings.vpc_cidr,
        enable_dns_hostnames=True,
        enable_dns_support=True,
        tags={"Name": name},
        opts=scope.options(),
    )
    internet = aws.ec2.InternetGateway(f"{name}-internet", vpc_id=vpc.id, tags={"Name": name}, opts=scope.options())
    public, public_routes = public_subnets(scope, settings, vpc, internet, zones)
    gateways = {
        zone: nat_gateway(scope, zone, public[zone], internet)
        for zone in (zones if settings.nat_per_zone else zones[:1])
    }
    private, tables, private_routes = private_subnets(scope, vpc, location, gateways, per_zone=settings.nat_per_zone)
    storage = storage_endpoint(scope, settings, vpc, tables)
    egress = [internet, *public_routes, *private_routes, *gateways.values(), storage]
    return Network(vpc.id, private, [public[location.system_zone].id], egress)


def public_subnets(
    scope: Scope, settings: EksSettings, vpc: aws.ec2.Vpc, internet: aws.ec2.InternetGateway, zones: Sequence[str]
) -> tuple[dict[str, aws.ec2.Subnet], list[pulumi.Resource]]:
    """A public subnet in each zone, and the routes by which it reaches the internet."""
    table = route_table(scope, "public", vpc, {"gateway_id": internet.id})
    subnets: dict[str, aws.ec2.Subnet] = {}
    routes: list[pulumi.Resource] = []
    for index, zone in enumerate(zones):
        subnets[zone] = aws.ec2.Subnet(
            f"{scope.name}-public-{zone}",
            vpc_id=vpc.id,
            availability_zone=zone,
            cidr_block=public_range(settings.vpc_cidr, index),
            # Kubernetes places load balancers that face the internet into subnets with this tag.
            tags={"Name": f"{scope.name}-public-{zone}", "kubernetes.io/role/elb": "1"},
            opts=scope.options(),
        )
        routes.append(associate(scope, f"public-{zone}", subnets[zone], table))
    return subnets, routes


def private_subnets(
    scope: Scope,
    vpc: aws.ec2.Vpc,
    location: Location,
    gateways: Mapping[str, aws.ec2.NatGateway],
    *,
    per_zone: bool,
) -> tuple[dict[str, pulumi.Input[str]], list[aws.ec2.RouteTable], list[pulumi.Resource]]:
    """A private subnet in each zone, the route tables, and the routes by which the subnets reach the internet.

    per_zone: route each zone through its own gateway. Otherwise all zones share the first zone's.
    """
    subnets: dict[str, pulumi.Input[str]] = {}
    routes: list[pulumi.Resource] = []
    zones = location.network_zones
    shared = None if per_zone else route_table(scope, "private", vpc, {"nat_gateway_id": gateways[zones[0]].id})
    tables = [shared] if shared else []
    for zone in zones:
        subnet = aws.ec2.Subnet(
            f"{scope.name}-private-{zone}",
            vpc_id=vpc.id,
            availability_zone=zone,
            cidr_block=location.private_ranges[zone],
            map_public_ip_on_launch=False,
            tags={"Name": f"{scope.name}-private-{zone}", "kubernetes.io/role/internal-elb": "1"},
            opts=scope.options(),
        )
        table = shared or route_table(scope, f"private-{zone}", vpc, {"nat_gateway_id": gateways[zone].id})
        if table is not shared:
            tables.append(table)
        routes.append(associate(scope, f"private-{zone}", subnet, table))
        subnets[zone] = subnet.id
    return subnets, tables, routes


def storage_endpoint(
    scope: Scope, settings: EksSettings, vpc: aws.ec2.Vpc, tables: Sequence[aws.ec2.RouteTable]
) -> aws.ec2.VpcEndpoint:
    """The private way to S3, which is free. Without it NAT bills each GB of images, whose layers are in S3."""
    return aws.ec2.VpcEndpoint(
        f"{scope.name}-s3",
        vpc_id=vpc.id,
        service_name=f"com.amazonaws.{settings.region}.s3",
        vpc_endpoint_type="Gateway",
        route_table_ids=[table.id for table in tables],
        tags={"Name": f"{scope.name}-s3"},
        opts=scope.options(),
    )


def route_table(
    scope: Scope, part: str, vpc: aws.ec2.Vpc, target: Mapping[str, pulumi.Output[str]]
) -> aws.ec2.RouteTable:
    """A route table with a default route to `target`."""
    return aws.ec2.RouteTable(
        f"{scope.name}-{part}",
        vpc_id=vpc.id,
        routes=[aws.ec2.RouteTableRouteArgs(cidr_block="0.0.0.0/0", **target)],
        tags={"Name": f"{scope.name}-{part}"},
        opts=scope.options(),
    )


def associate(
    scope: Scope, part: str, subnet: aws.ec2.Subnet, table: aws.ec2.RouteTable
) -> aws.ec2.RouteTableAssociation:
    """The association of a subnet with its route table."""
    return aws.ec2.RouteTableAssociation(
        f"{scope.name}-{part}", subnet_id=subnet.id, route_table_id=table.id, opts=scope.options()
    )


def nat_gateway(
    scope: Scope, zone: str, subnet: aws.ec2.Subnet, internet: aws.ec2.InternetGateway
) -> aws.ec2.NatGateway:
    """A NAT gateway in a public subnet, with its address."""
    address = aws.ec2.Eip(
        f"{scope.name}-nat-{zone}",
        domain="vpc",
        tags={"Name": f"{scope.name}-nat-{zone}"},
        opts=scope.options(depends_on=[internet]),
    )
    return aws.ec2.NatGateway(
        f"{scope.name}-nat-{zone}",
        allocation_id=address.id,
        subnet_id=subnet.id,
        tags={"Name": f"{scope.name}-{zone}"},
        opts=scope.options(depends_on=[internet]),
    )
