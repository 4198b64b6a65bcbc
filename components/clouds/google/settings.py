"""The settings of a stack on Google Cloud."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator

from components.clouds.buckets import buckets_setting, reference
from components.clouds.google.ranges import NARROWEST, WIDEST, ranges_of
from components.clouds.settings import (
    MY_ADDRESS,
    KubernetesVersion,
    ManagedSettings,
    private_network,
    region_of_cloud,
    snapshot_setting,
    system_machine,
    vpc_setting,
    worker_machine,
    zone_of_nodes,
)
from components.settings.errors import Problem
from components.settings.fields import Allowed, Cidr, Items, MachineType, matching, setting

FILESTORE_MIN_GIB = 1024
"""Smallest Filestore instance of tier BASIC_HDD (https://cloud.google.com/filestore/docs/service-tiers)."""

REGION = r"[a-z]+-[a-z]+[0-9]+"

Project = Annotated[str, matching(r"[a-z][a-z0-9-]{4,28}[a-z0-9]"), Allowed("a Google Cloud project ID")]
Region = Annotated[str, matching(REGION), Allowed("a region of gke, such as us-west1")]
Zone = Annotated[str, matching(rf"{REGION}-[a-z]"), Allowed("a zone of gke, such as us-west1-a")]

# https://cloud.google.com/storage/docs/buckets#naming
BucketReference = Annotated[
    str,
    reference("gs", r"(?!goog)(?=.{3,222}$)[a-z0-9]([a-z0-9_.-]*[a-z0-9])"),
    Allowed("a bucket of gke, such as gs://team-data, or gs://results:rw to write too"),
]

SnapshotName = Annotated[
    str,
    matching(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", 63),
    Allowed("the name of a snapshot in the project, or none for an empty home"),
]

DEFAULT_VPC_CIDR = "10.0.0.0/12"
VpcCidr = Annotated[
    str,
    AfterValidator(private_network(WIDEST, NARROWEST)),
    Allowed(f"an IPv4 network of private addresses from /{WIDEST} to /{NARROWEST}, such as 10.32.0.0/12"),
]

DAYS = r"(MO|TU|WE|TH|FR|SA|SU)"

MaintenanceWindow = Annotated[
    str,
    # GKE asks for 48 hours in every 32 days: one night a week is refused.
    matching(rf"{DAYS}(,{DAYS})+ ([01][0-9]|2[0-3]):[0-5][0-9]"),
    Allowed("at least two weekdays, a blank, and the hour in UTC at which eight hours begin, such as SA,SU 02:00"),
]


class GkeSettings(ManagedSettings):
    """Google Cloud: a cluster on Google Kubernetes Engine, which the stack creates."""

    cloud: Literal["gke"] = "gke"
    project: Project = setting(description="Google Cloud project ID", example="my-project")
    region: Region = region_of_cloud("us-west1")
    zone: Zone | None = zone_of_nodes("us-west1-a")
    authorized_networks: Items[Cidr] = setting(
        (),
        "Networks that may reach the Kubernetes API by its address",
        default_words="none: by a DNS name, at which IAM decides",
        example="203.0.113.0/24",
        fix=MY_ADDRESS,
    )
    vpc_cidr: VpcCidr = vpc_setting(DEFAULT_VPC_CIDR, "10.32.0.0/12")
    buckets: Items[BucketReference] = buckets_setting("gs")
    home_snapshot: SnapshotName | None = snapshot_setting("future-team-home-0a1b2c3d4e-20261129-021500")
    machine_type: MachineType = worker_machine("e2-standard-4")
    other_machine_types: Items[MachineType] = setting(
        (),
        "Further machine types for the workers' spot nodes, each with a pool of its own, and with as many vCPUs and as "
        "much memory as `machineType`",
        default_words="none",
        example="n2-standard-4,n2d-standard-4",
    )
    system_machine_type: MachineType = system_machine("e2-standard-2")
    kubernetes_version: KubernetesVersion | None = setting(
        None,
        "Lowest Kubernetes version of control plane and nodes; Google goes on upgrading within its release channel",
        default_words="the default of the release channel",
        example="1.35",
    )
    maintenance_window: MaintenanceWindow = setting(
        "SA,SU 02:00", "When Google may upgrade control plane and nodes, which ends R sessions", example="SA,SU 22:00"
    )

    @classmethod
    def region_of(cls, zone: str) -> str:
        """`us-west1-a` lies in `us-west1`."""
        return zone[:-2]

    def contradictions(self) -> Iterator[Problem]:
        """Adds: a volume smaller than Filestore's smallest, unfit subnets, addresses used twice, types without spot."""
        yield from super().contradictions()
        yield from self.addresses_of_a_given_network(self.vpc_cidr, DEFAULT_VPC_CIDR)
        yield from self._shadowed_addresses()
        if 0 < self.shared_gib < FILESTORE_MIN_GIB:
            yield Problem(
                "sharedGiB",
                str(self.shared_gib),
                f"0 (no /shared), or at least {FILESTORE_MIN_GIB}: Filestore has no smaller basic instance",
                self.key("sharedGiB").command(str(FILESTORE_MIN_GIB)),
            )
        if self.other_machine_types and not self.spot:
            yield Problem(
                "otherMachineTypes",
                "set, and spot is false",
                "only with spot nodes, which run out: without them the workers have the one pool of machineType",
                self.key("spot").command("fallback"),
                others=("spot",),
            )
        if self.network and len(self.subnets) != 1:
            yield Problem(
                "subnets",
                f"a list of {len(self.subnets)}, and network is set",
                "the one subnetwork of that network in which the nodes are to be",
                self.key("subnets").command(),
                others=("network",),
            )

    def _shadowed_addresses(self) -> Iterator[Problem]:
        """Destinations of `egress` that lie in the stack's own ranges: pods would look for them inside the cluster.

        A wider network is allowed, of which only a part is hidden.
        """
        if self.network:
            return
        for each in self.egress:
            place = ipaddress.ip_network(each.rpartition(":")[0].strip("[]"))
            for kind, own in ranges_of(self.vpc_cidr)._asdict().items():
                if isinstance(place, ipaddress.IPv4Network) and place.subnet_of(own):
                    yield Problem(
                        "vpcCidr",
                        f"{self.vpc_cidr}, of which {own} is the range of the {kind}, and egress has {each}",
                        "a network without an address of egress, which pods would look for in the cluster itself",
                        self.key("vpcCidr").command(),
                        others=("egress",),
                    )
