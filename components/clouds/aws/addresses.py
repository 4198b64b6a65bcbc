"""Addresses of a stack's network: the subnets of a new VPC, and the number that nodes and pods take. Pure: no I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from components.clouds.aws.machines import Ec2Machine

DRIVER_PODS = 2
"""Pods of each node with an address of their own, beside the workers: the disk driver's and the file driver's."""

RESERVED_BY_AWS = 5
"""Addresses of each subnet (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html)."""

SYSTEM_ADDRESSES = 200
"""Kept for the system nodes, the control plane and load balancers."""


def private_range(vpc: str, index: int) -> str:
    """Addresses of the private subnet of one zone: a quarter of the VPC, since every pod takes an address."""
    return str(list(ipaddress.IPv4Network(vpc).subnets(prefixlen_diff=2))[index])


def public_range(vpc: str, index: int) -> str:
    """Addresses of the public subnet of one zone: the 256th part of the VPC, after the three private ones."""
    return str(list(ipaddress.IPv4Network(vpc).subnets(prefixlen_diff=8))[192 + index])


def addresses_per_node(machine: Ec2Machine, workers: int) -> int:
    """Addresses that a node takes of its subnet. The network plugin takes whole interfaces, and one more in reserve.

    Source: https://github.com/aws/amazon-vpc-cni-k8s, WARM_ENI_TARGET, which is 1 by default. The first address of an
    interface is the node's.
    """
    interfaces = -(-(workers + DRIVER_PODS) // (machine.addresses - 1)) + 1
    return min(interfaces, machine.interfaces) * machine.addresses


def addresses_in(subnets: Iterable[str]) -> int:
    """Addresses that the worker nodes of these subnets can take."""
    total = sum(ipaddress.IPv4Network(subnet).num_addresses - RESERVED_BY_AWS for subnet in subnets)
    return max(0, total - SYSTEM_ADDRESSES)
