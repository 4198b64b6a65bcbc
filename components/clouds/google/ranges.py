"""Address ranges of a stack's own network on Google Cloud, cut from `vpcCidr`. Pure: no I/O."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

WIDEST, NARROWEST = 12, 18
"""Prefixes of `vpcCidr`: the widest has room for 1,024 nodes, the narrowest for 16. A subnet of GKE's services or nodes
is a /20, and a quarter of the narrowest is one."""

NODE_PREFIX, SERVICE_PREFIX = 20, 20
PREFIX_OF_A_NODE = 24
"""The range of pods that GKE gives each node with 110 pods
(https://cloud.google.com/kubernetes-engine/docs/how-to/flexible-pod-cidr)."""


class Ranges(NamedTuple):
    """Ranges of the nodes, the pods and the services, none of which overlaps another."""

    nodes: ipaddress.IPv4Network
    pods: ipaddress.IPv4Network
    services: ipaddress.IPv4Network

    @property
    def max_nodes(self) -> int:
        """Nodes for which the pods' range has room."""
        return int(2 ** (PREFIX_OF_A_NODE - self.pods.prefixlen))


def ranges_of(vpc: str) -> Ranges:
    """Nodes at the start of the first quarter, pods in the whole second, services at the start of the third.

    Another cut would replace the clusters of all stacks.
    """
    first, second, third, _ = ipaddress.IPv4Network(vpc).subnets(prefixlen_diff=2)
    return Ranges(next(first.subnets(new_prefix=NODE_PREFIX)), second, next(third.subnets(new_prefix=SERVICE_PREFIX)))
