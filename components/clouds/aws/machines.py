"""Machine types of AWS: what they are, which zones offer them, and their price on the spot market."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

from components.clouds.allocatable import Machine
from components.clouds.aws.api import ask
from components.clouds.aws.settings import EksSettings
from components.clouds.checks import CloudError, problem


def describe_machine(key: str, name: str, lookup: pulumi.InvokeOptions) -> Machine:
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
    pods = found.maximum_network_interfaces * (found.maximum_ipv4_addresses_per_interface - 1) + 2
    return Machine(name, found.default_vcpus, found.memory_size, pods)


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


NO_SPOT_MARKET = r"no .*spot price|empty result|couldn't find|not found"


def spot_market(
    settings: EksSettings, zones: Sequence[str], lookup: pulumi.InvokeOptions
) -> tuple[list[str], float | None]:
    """The `zones` with a spot market for the workers' machine type, and the price in the first of them.

    All zones and no price for a user without permission to see spot prices. Raises CloudError where no zone has a
    market.
    """
    priced: list[str] = []
    first = None
    for zone in zones:
        try:
            found = aws.ec2.get_spot_price(
                instance_type=settings.machine_type,
                availability_zone=zone,
                filters=[aws.ec2.GetSpotPriceFilterArgs(name="product-description", values=["Linux/UNIX"])],
                opts=lookup,
            )
        except Exception as error:  # the SDK raises bare Exception for every refusal of a provider
            if not re.search(NO_SPOT_MARKET, str(error), re.IGNORECASE):
                return list(zones), None
            continue
        priced.append(zone)
        first = float(found.spot_price) if first is None else first
    if not priced:
        raise CloudError(
            problem(
                f"spot is true, and {settings.machine_type} has no spot market in {', '.join(zones)}",
                "another zone (leave zone unset to try all), another machineType, or no spot",
                "pulumi config set spot false" if len(zones) > 1 else "pulumi config rm zone",
            )
        )
    return priced, first
