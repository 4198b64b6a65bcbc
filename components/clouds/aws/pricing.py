"""The hourly cost of a stack, from AWS's price list."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pulumi
import pulumi_aws as aws

from components.clouds.aws.location import Location
from components.clouds.aws.settings import EksSettings
from components.clouds.checks import ask_or_say
from components.clouds.scope import Scope
from components.clouds.sizing import WorkerPool

PRICE_LIST_REGION = "us-east-1"
"""One of the few regions that serve the price list, which covers all regions."""


def hourly_cost(scope: Scope, settings: EksSettings, location: Location, pool: WorkerPool) -> float | None:
    """US dollars an hour of nodes, control plane and NAT. None where the price list lacks one of them.

    Disks, file systems, load balancers and traffic are billed by use and not included.
    """
    provider = aws.Provider(
        f"{scope.name}-prices", region=PRICE_LIST_REGION, opts=pulumi.ResourceOptions(parent=scope.parent)
    )
    lookup = pulumi.InvokeOptions(provider=provider)
    region = {"regionCode": settings.region}
    worker = settings.machine_type
    parts: list[tuple[int, str, str, Mapping[str, str]]] = [
        (1, settings.system_machine_type, "AmazonEC2", instance_filters(settings.system_machine_type, region)),
        (1, "the control plane", "AmazonEKS", {**region, "operation": "CreateOperation"}),
    ]
    if not settings.spot:
        parts.append((pool.nodes, worker, "AmazonEC2", instance_filters(worker, region)))
    if not settings.network:
        nat = {**region, "productFamily": "NAT Gateway", "groupDescription": "Hourly charge for NAT Gateways"}
        count = len(location.network_zones) if settings.nat_per_zone else 1
        parts.append((count, "NAT", "AmazonEC2", nat))
    total = pool.nodes * (location.spot_price or 0)
    for count, what, service, filters in parts:
        each = price(what, service, filters, lookup)
        if each is None:  # said once
            return None
        total += count * each
    return total


def instance_filters(machine_type: str, region: Mapping[str, str]) -> dict[str, str]:
    """Filters that select the on-demand Linux price of a machine type."""
    return {
        **region,
        "instanceType": machine_type,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }


def price(what: str, service: str, filters: Mapping[str, str], lookup: pulumi.InvokeOptions) -> float | None:
    """US dollars an hour of the one product that `filters` select. None where there is not exactly one."""
    found = ask_or_say(
        f"the price of {what}, so hourlyCost is unknown",
        lambda: aws.pricing.get_product(
            service_code=service,
            filters=[aws.pricing.GetProductFilterArgs(field=key, value=value) for key, value in filters.items()],
            opts=lookup,
        ),
    )
    return hourly_price(found.result) if found else None


def hourly_price(product: str) -> float | None:
    """The hourly on-demand price in a product of the price list (JSON). None where there is not exactly one."""
    terms = json.loads(product).get("terms", {}).get("OnDemand", {})
    prices = [
        float(dimension["pricePerUnit"]["USD"])
        for term in terms.values()
        for dimension in term["priceDimensions"].values()
        if "USD" in dimension["pricePerUnit"] and dimension.get("unit", "").lower() in ("hrs", "hours", "hour")
    ]
    return prices[0] if len(prices) == 1 else None
