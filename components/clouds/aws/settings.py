"""The settings of a stack on AWS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from components.clouds.buckets import buckets_setting, reference
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
from components.settings.fields import Allowed, Cidr, Items, Line, MachineType, matching, setting, whole_number

REGION = r"[a-z]{2}(-[a-z]+)+-[0-9]+"
DEFAULT_VPC_CIDR = "10.0.0.0/16"
TWO_SUBNETS = "subnet-0123456789abcdef0,subnet-0fedcba9876543210"

Region = Annotated[str, matching(REGION), Allowed("a region of eks, such as us-west-2")]
Zone = Annotated[str, matching(rf"{REGION}[a-z]"), Allowed("a zone of eks, such as us-west-2a")]
RoleArn = Annotated[
    str,
    matching(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+", 2048),
    Allowed("the ARN of an IAM role (for an assumed role, of the role itself)"),
]


# A VPC of AWS has at most a /16.
VpcCidr = Annotated[
    str,
    AfterValidator(private_network(16, 20)),
    Allowed("an IPv4 network of private addresses from /16 to /20, such as 10.20.0.0/16"),
]
YEARS = (365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)
RETENTION_DAYS = (0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, *YEARS)
"""Periods for which CloudWatch keeps logs (https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/,
PutRetentionPolicy), up to ten years. 0 stands for no log."""


def retention_days(value: int) -> int:
    """A number of days for which CloudWatch can keep logs, or 0."""
    if value not in RETENTION_DAYS:
        raise ValueError
    return value


RetentionDays = Annotated[
    int,
    BeforeValidator(whole_number),
    AfterValidator(retention_days),
    Allowed(f"one of the periods of CloudWatch: {', '.join(map(str, RETENTION_DAYS))}"),
]
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
BucketReference = Annotated[
    str,
    reference("s3", r"(?![0-9.]+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
    Allowed("a bucket of eks, such as s3://team-data, or s3://results:rw to write too"),
]
SnapshotName = Annotated[
    str,
    matching(r"none|snap-[0-9a-f]{8,17}", 63),
    Allowed("the ID of a snapshot such as snap-0123456789abcdef0, or none for an empty home"),
]
NodeRelease = Annotated[
    str,
    matching(r"latest|1\.[0-9]{2}\.[0-9]+-[0-9]{8}"),
    Allowed("a release of EKS's machine image such as 1.35.2-20260601, or latest"),
]


class EksSettings(ManagedSettings):
    """AWS: a cluster on Amazon EKS, which the stack creates."""

    cloud: Literal["eks"] = "eks"
    region: Region = region_of_cloud("us-west-2")
    zone: Zone | None = zone_of_nodes("us-west-2a")
    authorized_networks: Items[Cidr] = setting(
        (),
        "Networks that may reach the Kubernetes API (0.0.0.0/0: every address)",
        default_words="required",
        example="203.0.113.0/24",
        fix=MY_ADDRESS,
    )
    buckets: Items[BucketReference] = buckets_setting("s3")
    home_snapshot: SnapshotName | None = snapshot_setting("snap-0123456789abcdef0")
    machine_type: MachineType = worker_machine("m6i.xlarge")
    other_machine_types: Items[MachineType] = setting(
        (),
        "Further machine types for the workers' nodes, with as many vCPUs and as much memory as `machineType`",
        default_words="on spot like types of other families, else none",
        example="m6a.xlarge,m5.xlarge",
    )
    system_machine_type: MachineType = system_machine("m6i.large")
    network: Line | None = setting(
        None, "ID of an existing VPC to use", default_words="a new one", example="vpc-0123456789abcdef0"
    )
    subnets: Items[Line] = setting((), "IDs of private subnets of `network` for the nodes", example=TWO_SUBNETS)
    public_subnets: Items[Line] = setting(
        (),
        "IDs of public subnets of `network`, for the load balancer of `host`",
        example="subnet-0123456789abcdef0",
    )
    vpc_cidr: VpcCidr = vpc_setting(DEFAULT_VPC_CIDR, "10.20.0.0/16")
    nat_per_zone: bool = setting(False, "Give each zone a NAT gateway of its own", example="true")
    kubernetes_version: KubernetesVersion | None = setting(
        None,
        "Kubernetes version of control plane, nodes, addons and autoscaler",
        default_words="EKS's default when the stack is created, then that of the cluster",
        example="1.35",
    )
    node_release: NodeRelease | None = setting(
        None,
        "Release of the nodes' machine image; `latest` replaces the nodes at the first `pulumi up` after each release",
        default_words="the newest when the nodes are created, then theirs",
        example="latest",
    )
    audit_log_days: RetentionDays = setting(
        30, "Days for which CloudWatch keeps the audit log of the Kubernetes API; 0 for no log", example="365"
    )
    team_roles: Items[RoleArn] = setting(
        (),
        "ARNs of IAM roles that may use the stack's namespace",
        example="arn:aws:iam::123456789012:role/statistics",
    )
    admin_roles: Items[RoleArn] = setting(
        (),
        "ARNs of IAM roles that administer the cluster, in addition to its creator",
        example="arn:aws:iam::123456789012:role/operators",
    )

    @classmethod
    def region_of(cls, zone: str) -> str:
        """`us-west-2a` lies in `us-west-2`."""
        return zone[:-1]

    def contradictions(self) -> Iterator[Problem]:
        """Adds: no network that may reach the Kubernetes API; unfit subnets, version, or roles in both lists."""
        yield from super().contradictions()
        if not self.authorized_networks:
            yield Problem(
                "authorizedNetworks",
                "not set",
                "the networks that may reach the Kubernetes API, or 0.0.0.0/0 for every address on the internet",
                MY_ADDRESS,
            )
        if self.public_subnets and not self.network:
            yield self.without_network("publicSubnets")
        if self.host and self.network and not self.public_subnets:
            yield Problem(
                "publicSubnets",
                "not set, and host and network are",
                "at least one public subnet of that VPC, in which the load balancer has an address",
                self.key("publicSubnets").command(),
                others=("host", "network"),
            )
        yield from self.addresses_of_a_given_network(self.vpc_cidr, DEFAULT_VPC_CIDR)
        if self.network and len(self.subnets) < 2:
            yield Problem(
                "subnets",
                f"a list of {len(self.subnets)}, and network is set",
                "at least two private subnets of that VPC in different zones, with a route to the internet",
                self.key("subnets").command(),
                others=("network",),
            )
        if self.kubernetes_version and not (self.node_release or "latest").startswith(
            ("latest", f"{self.kubernetes_version}.")
        ):
            yield Problem(
                "nodeRelease",
                repr(self.node_release),
                f"a release for kubernetesVersion {self.kubernetes_version}, or latest",
                self.key("nodeRelease").command("latest"),
                others=("kubernetesVersion",),
            )
        twice = [arn for arn in self.team_roles if arn in self.admin_roles]
        if twice:
            rest = ",".join(arn for arn in self.team_roles if arn not in twice)
            yield Problem(
                "teamRoles",
                f"a list with {', '.join(twice)}, which adminRoles has too",
                "each role in one of them (EKS has one access entry a role); adminRoles may do more",
                self.key("teamRoles").command(rest) if rest else "pulumi config rm teamRoles",
                others=("adminRoles",),
            )
