"""Checks of a stack on AWS before anything is created: access, machine sizes, quotas.

Every refusal is a CloudError with what is allowed and the command that fixes it.
"""

from __future__ import annotations

import re
from functools import partial

import pulumi
import pulumi_aws as aws

from components.clouds import preflight
from components.clouds.allocatable import Machine
from components.clouds.aws.addresses import addresses_in, addresses_per_node
from components.clouds.aws.allocatable import DAEMONS, SYSTEM_PODS, eks_allocatable
from components.clouds.aws.api import tagged_arns
from components.clouds.aws.buckets import RESTARTS, check_buckets, has_role
from components.clouds.aws.budget import check_budget
from components.clouds.aws.free_plan import check_free_plan
from components.clouds.aws.location import Caller, Location, find_caller, find_location
from components.clouds.aws.machines import describe_machine
from components.clouds.aws.settings import EksSettings
from components.clouds.aws.versions import check_version
from components.clouds.checks import CloudError, Refusal, ask_or_none, ask_or_say, found_or_none, problem, say_unchecked
from components.clouds.labels import common_labels
from components.clouds.sizing import Candidate, WorkerPool


def check(settings: EksSettings, lookup: pulumi.InvokeOptions) -> tuple[Location, WorkerPool]:
    """Location and sizes of the stack. Raises CloudError or SizingError for settings that AWS would refuse later."""
    caller = find_caller(lookup)
    check_creator(settings, caller, lookup)
    check_roles(settings, caller, lookup)
    check_version(settings, lookup)
    check_budget(settings, lookup)
    check_buckets(settings, lookup)
    say_restart(settings, lookup)
    location = find_location(settings, caller, lookup)
    # Of an existing cluster it was checked before, and asking takes a second.
    if cluster_is_absent("whether the account's plan has the machine types", settings, lookup):
        check_free_plan(location, lookup)
    pool = size_workers(settings, location, lookup)
    check_system(settings, location)
    check_quota(settings, pool, location, lookup)
    check_group_size(settings, pool, lookup)
    check_addresses(settings, pool, location)
    return location, pool


def check_creator(settings: EksSettings, caller: Caller, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError where the role that creates the cluster is also in `teamRoles` or `adminRoles`.

    EKS makes the creator an administrator and refuses a second access entry for the same role. For an existing cluster
    the caller need not be its creator. Where AWS does not say whether the cluster exists, the check says so.
    """
    # A role is arn:aws:iam::ACCOUNT:role/PATH/NAME. The ARN of its session lacks the path.
    session = re.fullmatch(r".*:assumed-role/([^/]+)/.*", caller.arn)
    if not session:
        return
    own_role = rf"arn:[^:]+:iam::{caller.account}:role/(.+/)?{re.escape(session[1])}"
    for key, roles in (("teamRoles", settings.team_roles), ("adminRoles", settings.admin_roles)):
        own = next((role for role in roles if re.fullmatch(own_role, role)), None)
        if own and cluster_is_absent(f"whether {key} has the role that creates the cluster", settings, lookup):
            others = ",".join(role for role in roles if role != own)
            raise CloudError(
                problem(
                    f"{key} has {own}, the role that you create the cluster with",
                    "other roles: the role that creates the cluster administers it",
                    f"pulumi config set {key} {others}" if others else f"pulumi config rm {key}",
                )
            )


def check_roles(settings: EksSettings, caller: Caller, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError for a role that does not exist, which EKS refuses when the cluster stands.

    Roles of other accounts are not checked. Where a lookup is refused, the check says so.
    """
    for key, roles in (("teamRoles", settings.team_roles), ("adminRoles", settings.admin_roles)):
        for role in roles:
            account, path = role.split(":")[4], role.split(":role/")[1]
            if account != caller.account:
                continue
            real = role_path(path.rsplit("/", 1)[-1], lookup)
            if real == path or real is None:
                continue
            right = role.replace(path, real)
            others = ",".join([each for each in roles if each != role] + ([right] if real else []))
            raise CloudError(
                problem(
                    f"{key} has {role}, which does not exist",
                    f"a role of account {account}" + (f", such as {right}" if real else ""),
                    f"pulumi config set {key} {others}" if others else f"pulumi config rm {key}",
                )
            )


def role_path(name: str, lookup: pulumi.InvokeOptions) -> str | None:
    """Path and name of the role called `name`. Empty where there is none, None where the lookup is refused and said."""
    missing = r"(?i)NoSuchEntity|couldn't find|cannot be found|not found|empty result"
    try:
        found = found_or_none(lambda: aws.iam.get_role(name=name, opts=lookup), missing)
        return found.arn.split(":role/")[1] if found else ""
    except Refusal as error:
        say_unchecked(f"whether there is a role {name}", error)
        return None


def cluster_is_absent(unchecked: str, settings: EksSettings, lookup: pulumi.InvokeOptions) -> bool:
    """True where AWS says that no cluster has the stack's tag. False where the lookup is refused, which it says.

    unchecked: what is then not checked.
    """
    stack = common_labels(settings)["stack"]
    return ask_or_say(unchecked, lambda: tagged_arns("eks:cluster", stack, lookup)) == []


def say_restart(settings: EksSettings, lookup: pulumi.InvokeOptions) -> None:
    """Says, in a preview too, that the first bucket of a running stack restarts its pods."""
    if not settings.buckets or has_role(settings, lookup) is not False:
        return
    stack = common_labels(settings)["stack"]
    if ask_or_say(RESTARTS, lambda: tagged_arns("eks:cluster", stack, lookup)):
        pulumi.log.info(
            "the first of buckets restarts scheduler and workers, which ends running R sessions: EKS gives a pod its "
            "way to the credentials when the pod is created"
        )


def size_workers(settings: EksSettings, location: Location, lookup: pulumi.InvokeOptions) -> WorkerPool:
    """Node counts and pod requests. Raises SizingError, naming larger types of the same family."""

    def candidate(machine: Machine) -> Candidate:
        return Candidate(machine, eks_allocatable(machine))

    def others() -> list[Candidate]:
        family = settings.machine_type.split(".")[0]
        names = [f"{each}.{size}" for each in (family, "r6i") for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge")]
        known = [ask_or_none(partial(describe_machine, "machineType", name, lookup)) for name in names]
        return [candidate(machine) for machine in known if machine]

    smallest = preflight.pool_candidate(location.worker_machines, eks_allocatable)
    return preflight.size_workers(settings, smallest, DAEMONS, others)


def check_system(settings: EksSettings, location: Location) -> None:
    """Raises CloudError when the scheduler fits on no system node."""
    # With the autoscaler the other system pods can move to a second node.
    beside = () if settings.autoscaled else SYSTEM_PODS
    free = eks_allocatable(location.system_machine).less([*DAEMONS, *beside])
    preflight.check_scheduler(settings, free, "Kubernetes' own pods", "m6i.xlarge")


QUOTAS = {False: "L-1216C47A", True: "L-34B43A08"}
"""Codes of the vCPU quotas for standard instances, on demand and spot: `aws service-quotas list-service-quotas`."""


def check_quota(settings: EksSettings, pool: WorkerPool, location: Location, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError when `maxWorkers` need more vCPUs than the account's whole quota, or both with a fallback.

    Other machines of the account count too, but no data source reports them. Families with quotas of their own are not
    checked, which is said: one of them among several types may have room for all workers.
    """
    if others := [machine.name for machine in location.worker_machines if not has_standard_quota(machine.name)]:
        pulumi.log.info(
            f"not checked: whether the account's quota of vCPUs has room for the workers. Reason: {', '.join(others)} "
            "counts in a quota of its family (aws service-quotas list-service-quotas --service-code ec2)"
        )
        return
    need = pool.max_nodes * location.worker_machine.vcpus
    code = QUOTAS[bool(settings.spot)]
    codes = dict.fromkeys([code, QUOTAS[False]] if settings.falls_back else [code])
    found = [
        ask_or_say(
            f"the quota {each} of vCPUs",
            partial(aws.servicequotas.get_service_quota, service_code="ec2", quota_code=each, opts=lookup),
        )
        for each in codes
    ]
    quotas = [quota for quota in found if quota]
    available = sum(quota.value for quota in quotas)
    if len(quotas) == len(found) and available < need:
        names = " and ".join(quota.quota_name for quota in quotas)
        raise CloudError(
            problem(
                f"maxWorkers is {settings.max_workers}, for which {need} vCPUs are needed",
                f"{available:.0f} vCPUs, the account's quota {names} in {settings.region}",
                f"aws service-quotas request-service-quota-increase --region {settings.region} --service-code ec2 "
                f"--quota-code {code} --desired-value {need}, or set fewer workers",
            )
        )


GROUP_QUOTA = "L-BD136A63"
"""Code of EKS's quota of nodes in a managed node group: `aws service-quotas list-service-quotas --service-code eks`."""


def check_group_size(settings: EksSettings, pool: WorkerPool, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError when `maxWorkers` need more nodes than EKS allows in one group."""
    quota = ask_or_say(
        f"the quota {GROUP_QUOTA} of nodes in a group",
        lambda: aws.servicequotas.get_service_quota(service_code="eks", quota_code=GROUP_QUOTA, opts=lookup),
    )
    if quota and quota.value < pool.max_nodes:
        raise CloudError(
            problem(
                f"maxWorkers is {settings.max_workers}, for which {pool.max_nodes} nodes are needed",
                f"{quota.value:.0f} nodes, the account's quota {quota.quota_name} in {settings.region}",
                f"aws service-quotas request-service-quota-increase --region {settings.region} --service-code eks "
                f"--quota-code {GROUP_QUOTA} --desired-value {pool.max_nodes}, or set a larger machineType",
            )
        )


def check_addresses(settings: EksSettings, pool: WorkerPool, location: Location) -> None:
    """Raises CloudError when `maxWorkers` need more addresses than the workers' subnets have."""
    subnets = [location.private_ranges[zone] for zone in location.worker_zones]
    each = max(addresses_per_node(machine, pool.workers_per_node) for machine in location.worker_machines)
    available = addresses_in(subnets)
    if pool.max_nodes * each > available:
        larger = "larger subnets" if settings.network or settings.vpc_cidr.endswith("/16") else "a larger vpcCidr"
        fewer = available // each * pool.workers_per_node
        raise CloudError(
            problem(
                f"maxWorkers is {settings.max_workers}, for which {pool.max_nodes} nodes take "
                f"{pool.max_nodes * each} addresses",
                f"{available} addresses, which the workers' subnets have: {', '.join(subnets)}",
                f"pulumi config set maxWorkers {fewer}, or set a larger machineType or {larger}",
            )
        )


def has_standard_quota(machine_type: str) -> bool:
    """True if the quotas of standard instances (A, C, D, H, I, M, R, T, Z) apply to a machine type."""
    return machine_type[0] in "acdhimrtz" and not machine_type.startswith(("dl", "hpc", "inf", "mac", "trn"))
