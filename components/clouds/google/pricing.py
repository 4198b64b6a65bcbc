"""The hourly cost of a stack, from Google's price list."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_gcp as gcp

from components.clouds.allocatable import Machine
from components.clouds.base import UNKNOWN, flat
from components.clouds.checks import ask_or_say, say_unchecked
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
from components.clouds.google import catalog
from components.clouds.google.allocatable import SYSTEM_DISK_GIB, boot_disk_type, worker_disk_gib
from components.clouds.google.catalog import Query
from components.clouds.google.location import Location
from components.clouds.google.nodes import MAX_SYSTEM_NODES
from components.clouds.google.rest import RestError
from components.clouds.google.settings import GkeSettings
from components.clouds.ingress import CERTIFICATE_GIB
from components.clouds.sizing import WorkerPool

EXCLUDED = (
    "traffic (NAT by the GB, between zones, to the internet), logs, images, snapshots, taxes, discounts, and what a "
    "billing account has free each month"
)

WORDS = {"n1": "N1 Predefined", "n2d": "N2D AMD", "c2d": "C2D AMD", "t2d": "T2D AMD", "m3": "M3 Memory-optimized"}
"""Beginnings of SKUs' descriptions by machine family, where they are not the family's name in upper case."""

UNPRICED = re.compile(r"-custom-|-lssd|-metal|^(f1|g1|m1|m2)-")
"""Machine types whose bill has further parts, or whose SKUs have other names. Their price is unknown."""

SHARED_CORES = {"e2-micro": 0.25, "e2-small": 0.5, "e2-medium": 1.0}
"""vCPUs that are billed of shared-core types, which have two
(https://cloud.google.com/compute/docs/general-purpose-machines#e2-shared-core)."""

DISKS = {
    kind: Query(catalog.COMPUTE, rf"{words} Capacity( in .*)?$", catalog.GIB_MONTH)
    for kind, words in (("pd-balanced", "Balanced PD"), ("hyperdisk-balanced", "Hyperdisk Balanced"))
}
GATEWAY = Query(catalog.NETWORKING, "Networking Cloud Nat Gateway Uptime$", catalog.HOUR)
ADDRESS = Query(catalog.NETWORKING, "Networking Cloud NAT IP Usage$", catalog.HOUR)
MAX_BILLED_MACHINES = 32
"""Machines of one Cloud NAT that are billed; more cost no more (https://cloud.google.com/nat/pricing)."""

BALANCERS = (
    Query(catalog.COMPUTE, "Network Load Balancing: Forwarding Rule Minimum Service Charge", catalog.HOUR),
    Query(catalog.NETWORKING, "Cloud Load Balancer Forwarding Rule Minimum (?!Global)", catalog.HOUR),
)
"""Both names under which a load balancer's first rules are listed."""

FILES = Query(catalog.FILESTORE, r"Filestore Capacity (Standard|Basic HDD)\b", catalog.GIB_MONTH)

Prices = Mapping[Query, float | None]


def hourly_cost(
    settings: GkeSettings, location: Location, pool: WorkerPool, lookup: pulumi.InvokeOptions
) -> pulumi.Output[dict[str, Any]]:
    """The output `hourlyCost`. The price list is read beside the rest of the program, which does not wait for it."""
    unchecked = "prices, so hourlyCost is unknown"
    client = ask_or_say(unchecked, lambda: gcp.organizations.get_client_config(opts=lookup))
    if client is None:
        return pulumi.Output.from_input(flat(UNKNOWN))
    queries = all_queries(settings, location)

    async def costs() -> dict[str, Any]:
        try:
            prices = await asyncio.to_thread(
                catalog.prices, queries, settings.region, settings.project, client.access_token
            )
        except RestError as error:
            say_unchecked(f"{unchecked}. To have them: gcloud services enable cloudbilling.googleapis.com", error)
            return flat(UNKNOWN)
        found = Costs(parts(settings, location, pool, prices), EXCLUDED, node_price(settings, location, pool, prices))
        return found.output()

    return pulumi.Output.from_input(costs())


def all_queries(settings: GkeSettings, location: Location) -> list[Query]:
    """The prices that a stack needs."""
    spot = bool(settings.spot)
    wanted = [query for each in location.worker_machines for query in machine_queries(each, spot=spot)]
    wanted += machine_queries(location.system_machine)
    if settings.falls_back:
        wanted += machine_queries(location.worker_machine)
    wanted += [*DISKS.values(), control_plane(settings)]
    if not settings.network:
        wanted += [GATEWAY, ADDRESS]
    if settings.host:
        wanted += BALANCERS
    if settings.shared_gib:
        wanted.append(FILES)
    return list(dict.fromkeys(wanted))


def parts(settings: GkeSettings, location: Location, pool: WorkerPool, prices: Prices) -> list[Part]:
    """The parts of the bill."""
    nodes = node_numbers(settings, pool)
    system = Numbers(1, 1, MAX_SYSTEM_NODES)
    kinds = worker_prices(settings, location, prices)
    worker = next(iter(kinds.values()))
    name = "worker nodes"
    if location.other_types:
        dearest = None if None in kinds.values() else max(kinds, key=lambda each: kinds[each] or 0)
        name += f" (now as {location.worker_machine.name}, at most as {dearest or 'the dearest type'})"
    disks = [by_month(prices[DISKS[boot_disk_type(each.name)]]) for each in location.worker_machines]
    volumes = system.times(SYSTEM_DISK_GIB).plus(
        ONE.times(settings.home_gib + (CERTIFICATE_GIB if settings.host else 0))
    )
    boot = nodes.times(worker_disk_gib(pool.workers_per_node))
    machines = nodes.plus(system)
    billed = Numbers(*(min(each, MAX_BILLED_MACHINES) for each in (machines.now, machines.idle, machines.maximum)))
    found = [
        Part.of(name, nodes, worker, *kinds.values()),
        Part.of("system nodes", system, machine_price(location.system_machine, prices)),
        Part.of("control plane", ONE, prices.get(control_plane(settings))),
        Part.of("worker disks", boot, disks[0], *disks),
        Part.of("other disks", volumes, by_month(prices[DISKS["pd-balanced"]])),
    ]
    if not settings.network:
        # Google adds addresses to a Cloud NAT with many connections.
        found += [Part.of("NAT", billed, prices[GATEWAY]), Part.of("NAT address", ONE, prices[ADDRESS])]
    if settings.host:
        # Its reserved address is free while a load balancer has it (https://cloud.google.com/vpc/network-pricing).
        listed = [prices[query] for query in BALANCERS if prices[query] is not None]
        found.append(Part.of("load balancer", ONE, listed[0] if len(listed) == 1 else None))
    if settings.shared_gib:
        found.append(Part.of("shared files", ONE.times(settings.shared_gib), by_month(prices[FILES])))
    if keeps_snapshots(settings):
        found.append(SNAPSHOTS)
    return found


def worker_prices(settings: GkeSettings, location: Location, prices: Prices) -> dict[str, float | None]:
    """The price of a worker node of each pool by its name, that of `machineType` first."""
    spot = bool(settings.spot)
    found = {each.name: machine_price(each, prices, spot=spot) for each in location.worker_machines}
    if settings.falls_back:
        found[f"{location.worker_machine.name} on demand"] = machine_price(location.worker_machine, prices)
    return found


def node_price(settings: GkeSettings, location: Location, pool: WorkerPool, prices: Prices) -> float | None:
    """The amount that each worker node adds to `idle`: its machine, its disk, and its share of Cloud NAT."""
    machine = machine_price(location.worker_machine, prices, spot=bool(settings.spot))
    disk = by_month(prices[DISKS[boot_disk_type(settings.machine_type)]])
    network = 0.0 if settings.network else prices[GATEWAY]
    return worker_node(settings, machine, product(worker_disk_gib(pool.workers_per_node), disk), network)


def by_month(price: float | None) -> float | None:
    """The hourly part of a price for a month."""
    return None if price is None else price / HOURS_A_MONTH


def control_plane(settings: GkeSettings) -> Query:
    """The fee of a cluster."""
    kind = "Zonal" if settings.zone else "Regional"
    return Query(catalog.KUBERNETES, f"{kind} Kubernetes Clusters$", catalog.HOUR)


def machine_queries(machine: Machine, *, spot: bool = False) -> tuple[Query, ...]:
    """The SKUs of a machine's cores and of its memory. None for a type whose bill has further parts."""
    if UNPRICED.search(machine.name):
        return ()
    family = machine.name.split("-")[0]
    words = WORDS.get(family, family.upper())
    name = "Compute optimized( Instance)?" if family == "c2" else f"{words} Instance"
    usage, start = ("Preemptible", "Spot Preemptible ") if spot else ("OnDemand", "")
    return tuple(
        Query(catalog.COMPUTE, f"{start}{name} {what} running in ", unit, usage)
        for what, unit in (("Core", catalog.HOUR), ("Ram", catalog.GIB_HOUR))
    )


def machine_price(machine: Machine, prices: Prices, *, spot: bool = False) -> float | None:
    """US dollars an hour of a machine: its billed cores and its memory. None where a price is unknown."""
    found = [prices.get(query) for query in machine_queries(machine, spot=spot)]
    if len(found) != 2 or found[0] is None or found[1] is None:
        return None
    cores = SHARED_CORES.get(machine.name, None if machine.shared_core else machine.vcpus)
    return None if cores is None else cores * found[0] + machine.memory_mib / 1024 * found[1]
