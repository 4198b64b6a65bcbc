"""Finds where a stack on AWS can run: account, zones, given subnets, and the machine types there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_aws as aws

from components.clouds.aws.addresses import private_range
from components.clouds.aws.api import ask
from components.clouds.aws.given_network import check_public_subnets, find_given_subnets
from components.clouds.aws.machines import (
    Ec2Machine,
    describe_machine,
    like_types,
    same_size,
    spot_market,
    zones_offering,
)
from components.clouds.aws.settings import EksSettings
from components.clouds.checks import CloudError, problem
from components.clouds.preflight import check_zone, choose_zones

MAX_ZONES = 3
ZONES_WITHOUT_EKS = ("use1-az3", "usw1-az2", "cac1-az3")
"""Zones that refuse a subnet for EKS's control plane
(https://docs.aws.amazon.com/eks/latest/userguide/network-reqs.html)."""


@dataclass(frozen=True)
class Location:
    """Account, zones and machine types of a stack."""

    account: str
    partition: str
    network_zones: tuple[str, ...]
    """Zones of the network. EKS requires at least two."""
    system_zone: str
    """Zone of the system node and of the disks."""
    worker_zones: tuple[str, ...]
    worker_machines: tuple[Ec2Machine, ...]
    """Machine types of the workers' nodes, the preferred one first. All have the same vCPUs and memory."""
    system_machine: Ec2Machine
    private_ranges: Mapping[str, str]
    """Zone to addresses of its private subnet."""
    given_subnets: Mapping[str, str] = field(default_factory=dict)
    """Zone to subnet in a given network."""
    spot_price: float | None = None

    @property
    def worker_machine(self) -> Ec2Machine:
        """The preferred machine type of the workers' nodes."""
        return self.worker_machines[0]


@dataclass(frozen=True)
class Caller:
    """The identity that runs the program."""

    account: str
    arn: str

    @property
    def partition(self) -> str:
        """AWS partition, such as `aws` or `aws-cn`."""
        return self.arn.split(":")[1]


def find_caller(lookup: pulumi.InvokeOptions) -> Caller:
    """The identity that runs the program. Raises CloudError without valid credentials."""
    found = ask("who you are to AWS", lambda: aws.get_caller_identity(opts=lookup))
    return Caller(found.account_id, found.arn)


def find_location(settings: EksSettings, caller: Caller, lookup: pulumi.InvokeOptions) -> Location:
    """The zones that offer the requested machine types. Raises CloudError where there are none."""
    zones = region_zones(settings, lookup)
    check_zone(settings, zones)
    given = find_given_subnets(settings, lookup) if settings.network else {}
    network_zones = choose_network_zones(settings, zones, list(given))
    ranges = {zone: private_range(settings.vpc_cidr, index) for index, zone in enumerate(network_zones[:MAX_ZONES])}
    ranges |= {zone: subnet.cidr_block for zone, subnet in given.items()}
    system_zones = usable_zones("systemMachineType", settings.system_machine_type, settings, network_zones, lookup)
    worker_zones = usable_zones("machineType", settings.machine_type, settings, network_zones, lookup)
    spot_price = None
    if settings.spot:
        worker_zones, spot_price = spot_market(settings, worker_zones, lookup)
    system_zone, chosen = choose_zones(settings, system_zones, worker_zones)
    check_public_subnets(settings, system_zone, lookup)
    return Location(
        account=caller.account,
        partition=caller.partition,
        network_zones=tuple(network_zones),
        system_zone=system_zone,
        worker_zones=chosen,
        worker_machines=worker_machines(settings, chosen, lookup),
        system_machine=describe_machine("systemMachineType", settings.system_machine_type, lookup),
        private_ranges=ranges,
        given_subnets={zone: subnet.id for zone, subnet in given.items()},
        spot_price=spot_price,
    )


def worker_machines(
    settings: EksSettings, zones: Sequence[str], lookup: pulumi.InvokeOptions
) -> tuple[Ec2Machine, ...]:
    """The machine types of the workers' nodes, each offered in all of `zones`.

    Spot capacity of a single type runs out more easily than that of several
    (https://docs.aws.amazon.com/eks/latest/userguide/managed-node-groups.html), so a spot group has several.
    Raises CloudError for a type in `otherMachineTypes` that has another size or is not offered.
    """
    first = describe_machine("machineType", settings.machine_type, lookup)
    if not settings.other_machine_types:
        return (first, *like_types(first, zones, lookup)) if settings.spot else (first,)
    others = [same_size(first, name, settings, zones, lookup) for name in settings.other_machine_types]
    return (first, *(machine for machine in others if machine.name != first.name))


def region_zones(settings: EksSettings, lookup: pulumi.InvokeOptions) -> list[str]:
    """The zones of the region in which EKS accepts subnets, sorted."""
    return sorted(
        ask(
            f"the zones of region {settings.region}",
            lambda: (
                aws.get_availability_zones(
                    state="available",
                    exclude_zone_ids=list(ZONES_WITHOUT_EKS),
                    filters=[aws.GetAvailabilityZonesFilterArgs(name="opt-in-status", values=["opt-in-not-required"])],
                    opts=lookup,
                ).names
            ),
        )
    )


def choose_network_zones(settings: EksSettings, zones: Sequence[str], given: Sequence[str]) -> list[str]:
    """The network's zones: those of the `given` subnets, else the region's first three.

    They depend on nothing that a stack changes later. Otherwise subnets in use would have to be deleted.
    """
    if given:
        return list(given)
    chosen = list(zones[:MAX_ZONES])
    if settings.zone and settings.zone not in chosen:
        chosen[MAX_ZONES - 1 :] = [settings.zone]
    return chosen


def usable_zones(
    key: str, machine_type: str, settings: EksSettings, network_zones: Sequence[str], lookup: pulumi.InvokeOptions
) -> list[str]:
    """The network's zones, or the requested one, that offer a machine type. Raises CloudError where none does."""
    offering = zones_offering(key, machine_type, settings, lookup)
    tried = [settings.zone] if settings.zone else network_zones
    usable = [zone for zone in tried if zone in offering and zone in network_zones]
    if not usable:
        raise CloudError(
            problem(
                f"{key} is {machine_type!r}, which is not offered in {', '.join(tried)}",
                f"a type that is, or one of the zones {', '.join(sorted(offering))}",
                f"pulumi config set zone {min(offering)}",
            )
        )
    return usable
