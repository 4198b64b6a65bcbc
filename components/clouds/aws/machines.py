"""Machine types of AWS: what they are, which zones offer them, and their price on the spot market."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import pulumi
import pulumi_aws as aws

from components.clouds.allocatable import Machine
from components.clouds.aws.api import ask
from components.clouds.aws.settings import EksSettings
from components.clouds.checks import CloudError, found_or_none, problem
from components.clouds.preflight import check_same_size, without_type


@dataclass(frozen=True)
class Ec2Machine(Machine):
    """A machine type of EC2. interfaces: of the network; addresses: IPv4 addresses of each.

    in_free_plan: whether accounts on AWS's free plan can launch it.
    """

    interfaces: int = 0
    addresses: int = 0
    in_free_plan: bool = False


def describe_machine(key: str, name: str, lookup: pulumi.InvokeOptions) -> Ec2Machine:
    """A machine type as AWS describes it. Raises CloudError for one that the image cannot use.

    These are other architectures than the image's, and types with an accelerator. R does not use the accelerator, so
    that it would be billed idle, and EKS refuses some of these types only when the cluster stands.

    key: the setting that names the type. The number of pods is the one that the network plugin has addresses for:
    interfaces x (addresses - 1) + 2 (https://github.com/awslabs/amazon-eks-ami,
    `nodeadm/internal/kubelet/eni_max_pods.go`, calculateStandardMaxPods). The plugin counts only the first network
    card. Of the few types with several cards, sizing therefore reserves more memory than the kubelet does.
    """
    found = ask(f"what a {name} is", lambda: aws.ec2.get_instance_type(instance_type=name, opts=lookup))
    if "x86_64" not in found.supported_architectures:
        raise CloudError(
            problem(
                f"{key} is {name}, which is {'/'.join(found.supported_architectures)}",
                "a type for x86-64, which the image is built for, such as m6i.xlarge",
                f"pulumi config set {key} m6i.xlarge",
            )
        )
    devices = accelerators(found)
    if devices:
        raise CloudError(
            problem(
                f"{key} is {name}, which has {', '.join(devices)}",
                "a type without an accelerator (GPU, Inferentia, Trainium, FPGA), such as m6i.xlarge",
                f"pulumi config set {key} m6i.xlarge",
            )
        )
    interfaces, addresses = found.maximum_network_interfaces, found.maximum_ipv4_addresses_per_interface
    pods = interfaces * (addresses - 1) + 2
    return Ec2Machine(
        name,
        found.default_vcpus,
        found.memory_size,
        pods,
        interfaces=interfaces,
        addresses=addresses,
        in_free_plan=found.free_tier_eligible,
    )


def accelerators(found: aws.ec2.GetInstanceTypeResult) -> list[str]:
    """The accelerators of a machine type, such as `1 x A10G`."""
    groups = (
        found.gpuses,
        found.neuron_devices,
        found.inference_accelerators,
        found.media_accelerators,
        found.fpgas,
    )
    return [f"{device.count} x {device.name}" for group in groups for device in group or ()]


def zones_offering(key: str, name: str, settings: EksSettings, lookup: pulumi.InvokeOptions) -> set[str]:
    """The zones of the region that offer a machine type. Raises CloudError where none does, naming types on offer."""

    def offerings(pattern: str, location_type: str) -> aws.ec2.AwaitableGetInstanceTypeOfferingsResult:
        return ask(
            f"where {pattern} is offered",
            lambda: aws.ec2.get_instance_type_offerings(
                filters=[aws.ec2.GetInstanceTypeOfferingsFilterArgs(name="instance-type", values=[pattern])],
                location_type=location_type,
                opts=lookup,
            ),
        )

    found = set(offerings(name, "availability-zone").locations)
    if not found:
        family = name.split(".")[0]
        near = sorted(offerings(f"{family}.*", "region").instance_types) or sorted(
            offerings("m6i.*", "region").instance_types
        )
        raise CloudError(
            problem(
                f"{key} is {name!r}, which region {settings.region} does not offer",
                f"such as {', '.join(near[:6])}",
                f"pulumi config set {key} {near[0] if near else 'm6i.xlarge'}",
            )
        )
    return found


LIKE_FAMILIES = ("6i", "6a", "5", "5a", "7i", "7a")
"""Families of x86-64 machines that differ in generation and maker, within each of the classes c, m and r."""


def like_types(machine: Ec2Machine, zones: Sequence[str], lookup: pulumi.InvokeOptions) -> tuple[Ec2Machine, ...]:
    """Machine types of other families with the vCPUs, memory and pods of `machine`, offered on spot in all of `zones`.

    The families are listed here rather than asked of AWS: a new generation would replace the nodes of every stack.
    Empty for a class without such families. Raises CloudError where AWS refuses the lookup: with fewer types another
    node group would replace that of the stack.
    """
    family, _, size = machine.name.partition(".")
    names = [f"{family[0]}{each}.{size}" for each in LIKE_FAMILIES]
    if family[0] not in "cmr" or machine.name not in names:
        return ()
    wanted = {
        "instance-type": [name for name in names if name != machine.name],
        "processor-info.supported-architecture": ["x86_64"],
        "supported-usage-class": ["spot"],
        "vcpu-info.default-vcpus": [str(machine.vcpus)],
        "memory-info.size-in-mib": [str(machine.memory_mib)],
        "network-info.maximum-network-interfaces": [str(machine.interfaces)],
        "network-info.ipv4-addresses-per-interface": [str(machine.addresses)],
    }
    filters = [aws.ec2.GetInstanceTypesFilterArgs(name=name, values=values) for name, values in wanted.items()]
    question = f"which machine types are like {machine.name}"
    alike = set(ask(question, lambda: aws.ec2.get_instance_types(filters=filters, opts=lookup)).instance_types)
    if not alike:
        return ()
    offered = ask(
        f"where {', '.join(sorted(alike))} are offered",
        lambda: aws.ec2.get_instance_type_offerings(
            filters=[aws.ec2.GetInstanceTypeOfferingsFilterArgs(name="instance-type", values=sorted(alike))],
            location_type="availability-zone",
            opts=lookup,
        ),
    )
    pairs = set(zip(offered.instance_types, offered.locations, strict=True))
    usable = [name for name in names if name in alike and all((name, zone) in pairs for zone in zones)]
    return tuple(replace(machine, name=name, in_free_plan=False) for name in usable)


def same_size(
    machine: Ec2Machine, name: str, settings: EksSettings, zones: Sequence[str], lookup: pulumi.InvokeOptions
) -> Ec2Machine:
    """A type of `otherMachineTypes`. Raises CloudError where it differs from `machine`, or a zone does not offer it."""
    key = "otherMachineTypes"
    offered = zones_offering(key, name, settings, lookup)
    missing = [zone for zone in zones if zone not in offered]
    if missing:
        allowed = f"types that {', '.join(zones)} offer, where the workers' nodes are"
        raise CloudError(
            problem(
                f"{key} has {name}, which {', '.join(missing)} does not offer", allowed, without_type(settings, name)
            )
        )
    found = describe_machine(key, name, lookup)
    check_same_size(settings, machine, found)
    return found


NO_SPOT_MARKET = r"(?i)no .*spot price|empty result|couldn't find|not found"


def spot_market(settings: EksSettings, zones: Sequence[str], lookup: pulumi.InvokeOptions) -> tuple[list[str], float]:
    """The `zones` with a spot market for the workers' machine type, and the price in the first of them.

    Raises CloudError where no zone has a market, and where AWS refuses the lookup: with other zones another node group
    would replace that of the stack.
    """

    def price(zone: str) -> float | None:
        linux = aws.ec2.GetSpotPriceFilterArgs(name="product-description", values=["Linux/UNIX"])
        found = found_or_none(
            lambda: aws.ec2.get_spot_price(
                instance_type=settings.machine_type, availability_zone=zone, filters=[linux], opts=lookup
            ),
            NO_SPOT_MARKET,
        )
        return float(found.spot_price) if found else None

    question = f"the spot price of {settings.machine_type} in {{}}"
    asked = {zone: ask(question.format(zone), partial(price, zone)) for zone in zones}
    priced = {zone: value for zone, value in asked.items() if value is not None}
    if not priced:
        spot = str(settings.spot).lower()
        raise CloudError(
            problem(
                f"spot is {spot}, and {settings.machine_type} has no spot market in {', '.join(zones)}",
                "another zone (leave zone unset to try all), another machineType, or no spot",
                "pulumi config set spot false" if len(zones) > 1 else "pulumi config rm zone",
            )
        )
    return list(priced), next(iter(priced.values()))
