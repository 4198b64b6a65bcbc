"""What AWS says of an account and a place before anything is made there: zones, machine types, quotas, prices.

Every refusal is a `CloudError` with what would do and the command for it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pulumi
import pulumi_aws as aws

from components.clouds import checks as cloud
from components.clouds import managed as cloud_cluster
from components.clouds import sizing
from components.clouds.base import PodSize

if TYPE_CHECKING:
    from components.clouds.aws.cluster import EksClusterArgs

MOST_ZONES = 3
ZONES_WITHOUT_EKS = ("use1-az3", "usw1-az2", "cac1-az3")
"""Where EKS takes no subnet for its control plane (https://docs.aws.amazon.com/eks/latest/userguide/network-reqs.html)."""

DAEMONS = (PodSize(100, 100), PodSize(100, 100), PodSize(40, 150), PodSize(20, 100), PodSize(40, 150))
"""One daemonset pod each: network, kube-proxy, disk driver, pod identity agent, file driver. Their charts ask for 50m,
100m, 30m and 120 MiB, nothing, and 30m and 120 MiB; the rest is room for their next versions."""

LOGIN = "aws sso login (or aws configure), and export AWS_PROFILE if you use one; then aws sts get-caller-identity"
FIXES = (
    (
        r"no valid credential|no EC2 IMDS role|NoCredentialProviders|ExpiredToken|InvalidClientTokenId|security token"
        r"|failed to refresh cached credentials|sso session|AuthFailure",
        LOGIN,
    ),
    (
        r"invalid AWS region|no such host|could not resolve endpoint",
        "aws account list-regions, then pulumi config set region",
    ),
    (r"OptInRequired|not subscribed|not enabled", "aws account enable-region --region-name REGION"),
    (r"AccessDenied|UnauthorizedOperation|not authorized", "ask for the rights that docs/eks.md lists"),
)


@dataclass(frozen=True)
class Site:
    """What AWS says about the account, the place and the machines."""

    account: str
    partition: str
    network_zones: tuple[str, ...]
    """Zones of the network; EKS wants two at least."""
    system_zone: str
    """Zone of the system node and of the disks."""
    worker_zones: tuple[str, ...]
    worker_machine: sizing.Machine
    system_machine: sizing.Machine
    given_subnets: Mapping[str, str] = field(default_factory=dict)
    """Zone to subnet, where the network is given."""
    spot_price: float | None = None


def find_site(args: EksClusterArgs, opts: pulumi.InvokeOptions) -> Site:
    """Asks AWS who we are, which zones offer the machines, and what those are. Raises CloudError."""
    caller = cloud.ask("who you are to AWS", lambda: aws.get_caller_identity(opts=opts), FIXES)
    check_creator(args, caller.account_id, caller.arn, opts)
    zones = cloud.ask(
        f"the zones of region {args.region}",
        lambda: (
            aws.get_availability_zones(
                state="available",
                exclude_zone_ids=list(ZONES_WITHOUT_EKS),
                filters=[aws.GetAvailabilityZonesFilterArgs(name="opt-in-status", values=["opt-in-not-required"])],
                opts=opts,
            ).names
        ),
        FIXES,
    )
    zones = sorted(zones)
    cloud_cluster.check_zone(args, zones)
    given = given_subnets(args, opts) if args.network else {}
    system_offer = offered("systemMachineType", args.system_machine_type, args, opts)
    worker_offer = offered("machineType", args.machine_type, args, opts)
    # The network's zones hang on nothing that a stack changes in its life, else subnets in use would have to go.
    network_zones = list(given) or zones[:MOST_ZONES]
    if args.zone and args.zone not in network_zones:
        network_zones = network_zones if given else [*network_zones[: MOST_ZONES - 1], args.zone]
    tried = [args.zone] if args.zone else network_zones
    system_zones = [zone for zone in tried if zone in system_offer and zone in network_zones]
    worker_zones = [zone for zone in tried if zone in worker_offer and zone in network_zones]
    for key, wanted, offer, usable in (
        ("systemMachineType", args.system_machine_type, system_offer, system_zones),
        ("machineType", args.machine_type, worker_offer, worker_zones),
    ):
        if not usable:
            raise cloud.CloudError(
                cloud.problem(
                    f"{key} is {wanted!r}, which is not offered in {', '.join(tried)}",
                    f"a type that is, or one of the zones {', '.join(sorted(offer))}",
                    f"pulumi config set zone {min(offer)}",
                )
            )
    spot_price = None
    if args.spot:
        worker_zones, spot_price = zones_with_spot(args, worker_zones, opts)
    home, chosen = cloud_cluster.chosen_zones(args, system_zones, worker_zones)
    return Site(
        account=caller.account_id,
        partition=caller.arn.split(":")[1],
        network_zones=tuple(network_zones),
        system_zone=home,
        worker_zones=chosen,
        worker_machine=machine("machineType", args.machine_type, opts),
        system_machine=machine("systemMachineType", args.system_machine_type, opts),
        given_subnets=given,
        spot_price=spot_price,
    )


def check_creator(args: EksClusterArgs, account: str, arn: str, opts: pulumi.InvokeOptions) -> None:
    """Raises CloudError where the role that is about to create the cluster is one of those given access to it.

    EKS makes the creator an administrator, and has one access entry a role. Once the cluster is there somebody else may
    have created it; and where AWS does not tell whether it is, nobody is held up.
    """
    # The role itself is arn:aws:iam::ACCOUNT:role/PATH/NAME; who has taken it on is known without the path.
    session = re.fullmatch(r".*:assumed-role/([^/]+)/.*", arn)
    if not session:
        return
    mine = rf"arn:[^:]+:iam::{account}:role/(.+/)?{re.escape(session[1])}"
    for key, roles in (("teamRoles", args.team_roles), ("adminRoles", args.admin_roles)):
        own = next((role for role in roles if re.fullmatch(mine, role)), None)
        if own and cluster_is_known_not_to_be_there(args, opts):
            others = ",".join(role for role in roles if role != own)
            raise cloud.CloudError(
                cloud.problem(
                    f"{key} has {own}, the role that you create the cluster with",
                    "other roles: who creates the cluster administers it",
                    f"pulumi config set {key} {others}" if others else f"pulumi config rm {key}",
                )
            )


def cluster_is_known_not_to_be_there(args: EksClusterArgs, opts: pulumi.InvokeOptions) -> bool:
    """Whether AWS says that no cluster has the stack's tag; False where it says nothing."""
    return tagged("eks:cluster", cloud.common_labels(args.stack, args.labels)["stack"], opts) == []


def tagged(kind: str, stack: str, opts: pulumi.InvokeOptions) -> list[str] | None:
    """ARNs of what has a stack's tag, by kind (`eks:cluster`); None where AWS does not tell.

    What was deleted stays in the list for a while.
    """
    listed = cloud.ask_or_none(
        lambda: aws.resourcegroupstaggingapi.get_resources(
            resource_type_filters=[kind],
            tag_filters=[aws.resourcegroupstaggingapi.GetResourcesTagFilterArgs(key="stack", values=[stack])],
            opts=opts,
        )
    )
    return [entry.resource_arn for entry in listed.resource_tag_mapping_lists] if listed else None


def given_subnets(args: EksClusterArgs, opts: pulumi.InvokeOptions) -> dict[str, str]:
    """Zone to private subnet of those given. Raises CloudError where one, or a public one, is not of the network, or
    where the private ones are all in one zone.
    """
    found: dict[str, str] = {}
    keyed = (("subnets", args.subnets), ("publicSubnets", args.public_subnets))
    for key, subnet in ((key, subnet) for key, subnets in keyed for subnet in subnets):
        known = cloud.ask(f"where subnet {subnet} is", partial(aws.ec2.get_subnet, id=subnet, opts=opts), FIXES)
        if known.vpc_id != args.network:
            raise cloud.CloudError(
                cloud.problem(
                    f"{key} has {subnet}, which is in {known.vpc_id}",
                    f"subnets of {args.network} (network)",
                    f"aws ec2 describe-subnets --region {args.region} --filters Name=vpc-id,Values={args.network}",
                )
            )
        if key == "subnets":
            found.setdefault(known.availability_zone, subnet)
    if len(found) < 2:
        raise cloud.CloudError(
            cloud.problem(
                f"subnets are all in zone {', '.join(found)}",
                "subnets in two zones at least, which EKS wants for its control plane",
                f"aws ec2 describe-subnets --region {args.region} --filters Name=vpc-id,Values={args.network}",
            )
        )
    return found


def offered(key: str, wanted: str, args: EksClusterArgs, opts: pulumi.InvokeOptions) -> set[str]:
    """The zones of the region that offer a machine type. Raises CloudError where none does, with types that are."""

    def offerings(pattern: str, place: str) -> aws.ec2.AwaitableGetInstanceTypeOfferingsResult:
        return cloud.ask(
            f"where {pattern} is offered",
            lambda: aws.ec2.get_instance_type_offerings(
                filters=[aws.ec2.GetInstanceTypeOfferingsFilterArgs(name="instance-type", values=[pattern])],
                location_type=place,
                opts=opts,
            ),
            FIXES,
        )

    found = set(offerings(wanted, "availability-zone").locations)
    if not found:
        family = wanted.split(".")[0]
        near = sorted(offerings(f"{family}.*", "region").instance_types) or sorted(
            offerings("m6i.*", "region").instance_types
        )
        raise cloud.CloudError(
            cloud.problem(
                f"{key} is {wanted!r}, which region {args.region} does not offer",
                f"such as {', '.join(near[:6])}",
                f"pulumi config set {key} {near[0] if near else 'm6i.xlarge'}",
            )
        )
    return found


def zones_with_spot(
    args: EksClusterArgs, zones: Sequence[str], opts: pulumi.InvokeOptions
) -> tuple[list[str], float | None]:
    """Those of `zones` that have a spot market for the machine type, and its price in the first of them.

    Raises CloudError where none has. A user who may not see spot prices is not held up.
    """
    priced: list[str] = []
    first = None
    for zone in zones:
        try:
            found = aws.ec2.get_spot_price(
                instance_type=args.machine_type,
                availability_zone=zone,
                filters=[aws.ec2.GetSpotPriceFilterArgs(name="product-description", values=["Linux/UNIX"])],
                opts=opts,
            )
        except Exception as error:  # the SDK raises bare Exception for every refusal of a provider
            if not re.search(r"no .*spot price|empty result|couldn't find|not found", str(error), re.IGNORECASE):
                return list(zones), None
            continue
        priced.append(zone)
        first = float(found.spot_price) if first is None else first
    if not priced:
        raise cloud.CloudError(
            cloud.problem(
                f"spot is true, and {args.machine_type} has no spot market in {', '.join(zones)}",
                "another zone (leave zone unset to let all be tried), another machineType, or no spot",
                "pulumi config set spot false" if len(zones) > 1 else "pulumi config rm zone",
            )
        )
    return priced, first


def machine(key: str, name: str, opts: pulumi.InvokeOptions) -> sizing.Machine:
    """A machine type as AWS describes it. Raises CloudError for one that the image is not built for.

    pods: how many the network plugin has addresses for, (interfaces x (addresses - 1)) + 2, see
    https://github.com/awslabs/amazon-eks-ami, `nodeadm/internal/kubelet/eni_max_pods.go` (calculateStandardMaxPods). It
    counts the interfaces of the first network card alone, where the few types with several cards have more: for those
    more pods are assumed, and so more memory taken, than is.
    """
    found = cloud.ask(f"what a {name} is", lambda: aws.ec2.get_instance_type(instance_type=name, opts=opts), FIXES)
    if "x86_64" not in found.supported_architectures:
        raise cloud.CloudError(
            cloud.problem(
                f"{key} is {name}, which is {'/'.join(found.supported_architectures)}",
                "a type for x86-64, which the image is built for, such as m6i.xlarge",
                f"pulumi config set {key} m6i.xlarge",
            )
        )
    pods = found.maximum_network_interfaces * (found.maximum_ipv4_addresses_per_interface - 1) + 2
    return sizing.Machine(name, found.default_vcpus, found.memory_size, pods)


def capacity(machine_type: sizing.Machine) -> sizing.Capacity:
    """What pods can have of a node. EKS lets no more than 110 pods on a node of up to 30 vCPUs, 250 on a larger one.

    Source: https://docs.aws.amazon.com/eks/latest/userguide/choosing-instance-type.html. The kubelet reserves memory
    for as many as there are addresses, all the same.
    """
    known = sizing.eks_capacity(machine_type)
    return dataclasses.replace(known, pods=min(known.pods, 110 if machine_type.vcpus <= 30 else 250))


def size_workers(args: EksClusterArgs, site: Site, opts: pulumi.InvokeOptions) -> sizing.WorkerPool:
    """Nodes and worker size. Raises SizingError, naming types of the same family that would do."""

    def others() -> list[sizing.Candidate]:
        family = args.machine_type.split(".")[0]
        names = [f"{each}.{step}" for each in (family, "r6i") for step in ("xlarge", "2xlarge", "4xlarge", "8xlarge")]
        known = [cloud.ask_or_none(partial(machine, "machineType", name, opts)) for name in names]
        return [sizing.Candidate(entry, capacity(entry)) for entry in known if entry]

    candidate = sizing.Candidate(site.worker_machine, capacity(site.worker_machine))
    return cloud_cluster.size_workers(args, candidate, DAEMONS, others)


def check_system(args: EksClusterArgs, site: Site) -> None:
    """Raises CloudError when the scheduler fits on no system node."""
    # Name service, autoscaler, metrics and drivers ask for some 400m and 700 MiB there.
    kept = (PodSize(400, 700),) if not args.autoscaled else ()
    free = capacity(site.system_machine).less([*DAEMONS, *kept])
    cloud_cluster.check_scheduler(args, free, "Kubernetes' own pods", "m6i.xlarge")


@dataclass(frozen=True)
class Scaling:
    """Numbers of nodes of a node group."""

    desired: int
    least: int
    most: int


def scaling_now(name: str, stack: str, opts: pulumi.InvokeOptions) -> Scaling | None:
    """How the group of nodes that the stack `name` has for workers is scaled; None where there is none, or none to see.

    stack: value of the tag `stack`. Also None where several answer, such as those of two stacks of one name.
    """
    # arn:aws:eks:REGION:ACCOUNT:nodegroup/CLUSTER/GROUP/ID
    paths = [arn.split("/")[1:3] for arn in tagged("eks:nodegroup", stack, opts) or ()]
    groups = [
        cloud.ask_or_none(partial(aws.eks.get_node_group, cluster_name=cluster, node_group_name=group, opts=opts))
        for cluster, group in paths
        if group.startswith(f"{name}-workers-")
    ]
    known = [found.scaling_configs[0] for found in groups if found]
    return Scaling(known[0].desired_size, known[0].min_size, known[0].max_size) if len(known) == 1 else None


QUOTAS = {False: "L-1216C47A", True: "L-34B43A08"}
"""Codes of the vCPU quotas for standard instances, on demand and spot: `aws service-quotas list-service-quotas`."""


def check_quota(args: EksClusterArgs, pool: sizing.WorkerPool, site: Site, opts: pulumi.InvokeOptions) -> None:
    """Raises CloudError when the workers at their most need more vCPUs than the account is allowed at all.

    Other machines of the account count too, which nobody tells; families with quotas of their own are not checked.
    """
    if args.machine_type[0] not in "acdhimrtz" or args.machine_type.startswith(("inf", "trn")):
        return
    need = pool.max_nodes * site.worker_machine.vcpus
    quota = cloud.ask_or_none(
        lambda: aws.servicequotas.get_service_quota(service_code="ec2", quota_code=QUOTAS[args.spot], opts=opts)
    )
    if quota and quota.value < need:
        raise cloud.CloudError(
            cloud.problem(
                f"maxWorkers is {args.max_workers}, for which {need} vCPUs are needed",
                f"{quota.value:.0f} vCPUs, the account's quota {quota.quota_name} in {args.region}",
                f"aws service-quotas request-service-quota-increase --region {args.region} --service-code ec2 "
                f"--quota-code {QUOTAS[args.spot]} --desired-value {need}, or set fewer workers",
            )
        )


def instance_filters(machine_type: str, region: Mapping[str, str]) -> dict[str, str]:
    """What singles out the on-demand Linux price of a machine type in the price list."""
    return {
        **region,
        "instanceType": machine_type,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }


def price(service: str, filters: Mapping[str, str], opts: pulumi.InvokeOptions) -> float | None:
    """US dollars an hour of the one product that `filters` single out in AWS's price list, or None."""
    found = cloud.ask_or_none(
        lambda: aws.pricing.get_product(
            service_code=service,
            filters=[aws.pricing.GetProductFilterArgs(field=key, value=value) for key, value in filters.items()],
            opts=opts,
        )
    )
    return hourly(found.result) if found else None


def hourly(product: str) -> float | None:
    """The hourly on-demand price in a product of the price list (JSON), or None where it has not exactly one."""
    terms = json.loads(product).get("terms", {}).get("OnDemand", {})
    prices = [
        float(dimension["pricePerUnit"]["USD"])
        for term in terms.values()
        for dimension in term["priceDimensions"].values()
        if "USD" in dimension["pricePerUnit"] and dimension.get("unit", "").lower() in ("hrs", "hours", "hour")
    ]
    return prices[0] if len(prices) == 1 else None
