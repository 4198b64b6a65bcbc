"""The VPC network of a stack: one subnetwork for nodes and pods, NAT to the internet, SSH through a proxy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.clouds.google import compute
from components.clouds.google.ranges import ranges_of
from components.clouds.google.settings import GkeSettings
from components.clouds.scope import Scope

PODS, SERVICES = "pods", "services"
"""Names of the secondary ranges in a new subnetwork."""

IAP_RANGE = "35.235.240.0/20"
"""Source addresses of `gcloud compute ssh --tunnel-through-iap`
(https://cloud.google.com/iap/docs/using-tcp-forwarding)."""

MIN_NAT_PORTS, MAX_NAT_PORTS = 64, 8192
"""Ports of Cloud NAT of an idle node, and the maximum (https://cloud.google.com/nat/docs/ports-and-addresses)."""


@dataclass(frozen=True)
class Network:
    """The network of the nodes.

    suffix: a text that no other stack has, for names that Pulumi does not generate. egress: resources without which a
    node does not reach the internet, and no user reaches a node.
    """

    network: pulumi.Input[str]
    subnet: pulumi.Input[str]
    suffix: pulumi.Output[str]
    egress: Sequence[pulumi.Resource]


def create_network(scope: Scope, settings: GkeSettings) -> Network:
    """The given network and subnetwork, or new ones."""
    if settings.network and settings.subnets:
        return given_network(settings, settings.network, settings.subnets[0])
    ranges = ranges_of(settings.vpc_cidr)
    network = compute.Network(
        f"{scope.name}-network", scope.options(), autoCreateSubnetworks=False, routingMode="REGIONAL"
    )
    subnet = compute.Subnetwork(
        f"{scope.name}-nodes",
        scope.options(),
        network=network.id,
        region=settings.region,
        ipCidrRange=str(ranges.nodes),
        privateIpGoogleAccess=True,
        secondaryIpRanges=[
            {"rangeName": PODS, "ipCidrRange": str(ranges.pods)},
            {"rangeName": SERVICES, "ipCidrRange": str(ranges.services)},
        ],
    )
    nat = create_nat(scope, settings.region, network, subnet)
    ssh = compute.Firewall(
        f"{scope.name}-iap-ssh",
        scope.options(),
        network=network.id,
        description="A shell on a node, only through Identity-Aware Proxy",
        direction="INGRESS",
        sourceRanges=[IAP_RANGE],
        allows=[{"protocol": "tcp", "ports": ["22"]}],
    )
    # The random end of the network's name makes names where Pulumi generates none.
    suffix = network.name.apply(lambda generated: generated[-7:].lstrip("-"))
    return Network(network.id, subnet.id, suffix, [nat, ssh])


def given_network(settings: GkeSettings, network: str, subnet: str) -> Network:
    """An existing network. Its suffix is a hash that differs from every other stack of the same Pulumi account."""
    owner = f"{pulumi.get_organization()}/{pulumi.get_project()}/{settings.stack}/{subnet}"
    digest = hashlib.sha256(owner.encode()).hexdigest()[:7]
    return Network(network, subnet, pulumi.Output.from_input(digest), [])


def reserve_address(scope: Scope, region: str) -> compute.Address:
    """A public address for the load balancer of `host`.

    Known before the load balancer exists, and the same for as long as the stack has `host`: what DNS points to.
    """
    return compute.Address(f"{scope.name}-public", scope.options(), region=region, addressType="EXTERNAL")


def create_nat(scope: Scope, region: str, network: compute.Network, subnet: compute.Subnetwork) -> compute.RouterNat:
    """Cloud NAT for the nodes, which have only private addresses."""
    router = compute.Router(f"{scope.name}-router", scope.options(), network=network.id, region=region)
    return compute.RouterNat(
        f"{scope.name}-nat",
        scope.options(),
        router=router.name,
        region=region,
        natIpAllocateOption="AUTO_ONLY",
        sourceSubnetworkIpRangesToNat="LIST_OF_SUBNETWORKS",
        subnetworks=[{"name": subnet.id, "sourceIpRangesToNats": ["ALL_IP_RANGES"]}],
        # All workers of a node share its ports. 64, the default, is the limit of connections to one address.
        enableDynamicPortAllocation=True,
        minPortsPerVm=MIN_NAT_PORTS,
        maxPortsPerVm=MAX_NAT_PORTS,
        # Cloud NAT refuses dynamic allocation together with it.
        enableEndpointIndependentMapping=False,
    )
