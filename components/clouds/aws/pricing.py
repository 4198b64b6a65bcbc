"""The hourly cost of a stack, from AWS's price list."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pulumi
import pulumi_aws as aws

from components.clouds.aws.allocatable import worker_disk_gib
from components.clouds.aws.location import Location
from components.clouds.aws.nodes import MAX_SYSTEM_NODES, SYSTEM_DISK_GIB
from components.clouds.aws.settings import EksSettings
from components.clouds.base import UNKNOWN
from components.clouds.checks import Refusal, refusals, say_unchecked
from components.clouds.costs import (
    HOURS_A_MONTH,
    ONE,
    SNAPSHOTS,
    Costs,
    Numbers,
    Part,
    keeps_snapshots,
    node_numbers,
    product,
    worker_node,
)
from components.clouds.ingress import CERTIFICATE_GIB
from components.clouds.scope import Scope
from components.clouds.sizing import WorkerPool

PRICE_LIST_REGION = "us-east-1"
"""One of the few regions that serve the price list, which covers all regions."""

HOUR, GIB_MONTH = ("hrs", "hours", "hour"), ("gb-mo", "gb-month")
"""Units of prices, as the price list spells them."""

EXCLUDED = "traffic (NAT by the GB, between zones, to the internet), logs, images, snapshots, taxes, discounts"


def hourly_cost(scope: Scope, settings: EksSettings, location: Location, pool: WorkerPool) -> Costs:
    """The parts of the bill. A part whose price the price list does not give is unknown."""
    prices = PriceList(scope, settings.region)
    nodes = node_numbers(settings, pool)
    system = Numbers(1, 1, MAX_SYSTEM_NODES if settings.autoscaled else 1)
    on_demand = prices.machine(settings.machine_type) if settings.spot is not True else None
    worker = location.spot_price if settings.spot else on_demand
    disks = nodes.times(worker_disk_gib(pool.workers_per_node)).plus(system.times(SYSTEM_DISK_GIB))
    volumes = settings.home_gib + (CERTIFICATE_GIB if settings.host else 0)
    gateways = 0 if settings.network else len(location.network_zones) if settings.nat_per_zone else 1
    # One in each public subnet of the load balancer; a new network has one such subnet.
    public = (len(settings.public_subnets) or 1) if settings.host else 0
    parts = [
        Part.of("worker nodes", nodes, worker, worker, *([on_demand] if settings.falls_back else [])),
        Part.of("system nodes", system, prices.machine(settings.system_machine_type)),
        Part.of("control plane", ONE, prices.of("the control plane", "AmazonEKS", {"operation": "CreateOperation"})),
        Part.of("disks", disks.plus(ONE.times(volumes)), prices.disk()),
        Part.of("NAT", ONE.times(gateways), prices.gateway() if gateways else None),
        Part.of("public addresses", ONE.times(gateways + public), prices.address() if gateways + public else None),
    ]
    if settings.host:
        parts.append(Part.of("load balancer", ONE, prices.balancer()))
    if settings.shared_gib:
        parts.append(Part("shared files", note=shared_note(prices.shared_files())))
    if keeps_snapshots(settings):
        parts.append(SNAPSHOTS)
    node = worker_node(settings, worker, product(worker_disk_gib(pool.workers_per_node), prices.disk()))
    return Costs(parts, EXCLUDED, node)


def shared_note(price: float | None) -> str:
    """The price of EFS, which bills what is stored. `sharedGiB` does not limit that."""
    shown = UNKNOWN if price is None else f"${price:.3f}"
    return f"by use: {shown} a GB-month stored, and each GB read and written; not in the sums"


class PriceList:
    """AWS's public prices of one region, on demand. A price that the list lacks is None, which is said once."""

    def __init__(self, scope: Scope, region: str) -> None:
        provider = aws.Provider(
            f"{scope.name}-prices", region=PRICE_LIST_REGION, opts=pulumi.ResourceOptions(parent=scope.parent)
        )
        self.lookup = pulumi.InvokeOptions(provider=provider)
        self.region = {"regionCode": region}
        self.known: dict[str, float | None] = {}
        self.refused = False

    def of(self, what: str, service: str, filters: Mapping[str, str], units: tuple[str, ...] = HOUR) -> float | None:
        """US dollars a unit of the one product that `filters` select. None where there is not exactly one."""
        if what not in self.known:
            self.known[what] = self.ask(what, service, filters, units)
        return self.known[what]

    def ask(self, what: str, service: str, filters: Mapping[str, str], units: tuple[str, ...]) -> float | None:
        """The price, by a request. After a refusal there are no more: each would be refused for the same reason.

        The provider fails with "not precise enough" where none or several products match, which is no refusal.
        """
        if self.refused:
            return None
        wanted = {**self.region, **filters}
        try:
            with refusals():
                found = aws.pricing.get_product(
                    service_code=service,
                    filters=[aws.pricing.GetProductFilterArgs(field=key, value=value) for key, value in wanted.items()],
                    opts=self.lookup,
                )
        except Refusal as error:
            say_unchecked(f"the price of {what}, so hourlyCost is unknown in part", error)
            self.refused = "precise enough" not in str(error)
            return None
        return unit_price(found.result, units)

    def machine(self, machine_type: str) -> float | None:
        """A machine type's on-demand price with Linux."""
        filters = {
            "instanceType": machine_type,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
        }
        return self.of(machine_type, "AmazonEC2", filters)

    def disk(self) -> float | None:
        """The hourly price of a GiB of gp3."""
        filters = {"productFamily": "Storage", "volumeApiName": "gp3"}
        price = self.of("disks", "AmazonEC2", filters, GIB_MONTH)
        return None if price is None else price / HOURS_A_MONTH

    def gateway(self) -> float | None:
        """The price of a NAT gateway without its traffic."""
        filters = {"productFamily": "NAT Gateway", "groupDescription": "Hourly charge for NAT Gateways"}
        return self.of("NAT", "AmazonEC2", filters)

    def address(self) -> float | None:
        """The price of a public IPv4 address in use."""
        filters = {
            "group": "VPCPublicIPv4Address",
            "groupDescription": "Hourly charge for In-use Public IPv4 Addresses",
        }
        return self.of("public addresses", "AmazonVPC", filters)

    def balancer(self) -> float | None:
        """The price of a network load balancer without the units of its traffic."""
        filters = {
            "productFamily": "Load Balancer-Network",
            "locationType": "AWS Region",
            "groupDescription": "LoadBalancer hourly usage by Network Load Balancer",
        }
        return self.of("load balancer", "AWSELB", filters)

    def shared_files(self) -> float | None:
        """The price of a GB stored in EFS for a month, in its standard class."""
        filters = {"productFamily": "Storage", "storageClass": "General Purpose"}
        return self.of("shared files", "AmazonEFS", filters, GIB_MONTH)


def unit_price(product: str, units: tuple[str, ...]) -> float | None:
    """The on-demand price for one of `units` in a product of the price list (JSON). None where there is not one."""
    terms = json.loads(product).get("terms", {}).get("OnDemand", {})
    prices = [
        float(dimension["pricePerUnit"]["USD"])
        for term in terms.values()
        for dimension in term["priceDimensions"].values()
        if "USD" in dimension["pricePerUnit"] and dimension.get("unit", "").lower() in units
    ]
    return prices[0] if len(prices) == 1 else None
