"""The settings that a cluster on Google Cloud and one on AWS share: machines, place, network, and the image's build."""

from __future__ import annotations

import ipaddress
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from components.clouds.buckets import twice
from components.settings.errors import Problem
from components.settings.fields import (
    Allowed,
    Cidr,
    EmailAddress,
    ImageReference,
    Items,
    Line,
    MachineType,
    RepositoryUrl,
    Whole,
    matching,
    setting,
)
from components.settings.model import MAX_WORKERS, Settings

MAX_BUDGET = 999_999
MAX_SNAPSHOT_DAYS = 365
NO_SNAPSHOT = "none"
"""The value of `homeSnapshot` for an empty home."""

# Without -4 the answer is IPv6 on many lines.
MY_ADDRESS = 'pulumi config set authorizedNetworks "$(curl -4 -s https://ifconfig.me)/32"'


def spot_choice(value: Any) -> Any:
    """The value of `spot` from config text or YAML. Pydantic refuses other words."""
    choices = {"true": True, "fallback": "fallback", "false": False}
    return choices.get(str(value).strip().lower(), value)


KubernetesVersion = Annotated[
    str, matching(r"1\.[0-9]{2}"), Allowed("a minor version of Kubernetes in quotes, such as '1.35'")
]


def minor(version: str) -> int:
    """35 of 1.35, and of 1.35.2-gke.1842000."""
    return int(version.split(".")[1])


PRIVATE_NETWORKS = [
    ipaddress.IPv4Network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
]


def private_network(widest: int, narrowest: int) -> Callable[[str], str]:
    """A validator of an IPv4 network of private addresses, by the prefixes that it may have."""

    def check(value: str) -> str:
        found = ipaddress.IPv4Network(value.strip())
        if not widest <= found.prefixlen <= narrowest or not any(found.subnet_of(each) for each in PRIVATE_NETWORKS):
            raise ValueError
        return str(found)

    return check


# Only False is false, so that `if settings.spot` asks for spot machines of either kind.
Spot = Annotated[Literal[True, "fallback", False], BeforeValidator(spot_choice)]


class ManagedSettings(Settings):
    """Settings of a cluster that the stack creates itself. Each cloud declares forms and defaults of its own."""

    region: str
    zone: str | None
    machine_type: MachineType
    other_machine_types: Items[MachineType]
    system_machine_type: MachineType
    spot: Spot = setting(
        False,
        "Run workers on spot machines, which cost less and which the cloud may reclaim at any time; `fallback` starts "
        "machines at the full price while there are none",
        example="fallback",
    )
    warm_workers: Whole = setting(
        0,
        "Further workers for which nodes are kept running, so that they start without a wait for a machine; none after "
        "`ttlHours` and outside of `workHours`",
        counts="workers (0: no room is kept)",
        ge=0,
        le=MAX_WORKERS,
        example=8,
    )
    authorized_networks: Items[Cidr]
    buckets: Items[str]
    keep_home: bool = setting(
        False,
        "Have `pulumi destroy` make a snapshot of the home, which the next `pulumi up` of the same stack restores",
        example="true",
    )
    home_snapshot: str | None
    home_snapshot_days: Whole = setting(
        0,
        "Days for which daily snapshots of the home are kept; 0 for none",
        counts="days (0: no daily snapshots)",
        ge=0,
        le=MAX_SNAPSHOT_DAYS,
        example=14,
    )
    network: Line | None = setting(None, "Existing network to use", default_words="a new one", example="my-network")
    subnets: Items[Line] = setting((), "Subnets of `network` for the nodes", example="my-subnet")
    monthly_budget: Whole | None = setting(
        None,
        "Costs of this stack in a calendar month above which the cloud writes to `budgetEmail`; nothing is stopped",
        default_words="no budget",
        counts="units of the billing account's currency (US dollars on eks)",
        ge=1,
        le=MAX_BUDGET,
        example=500,
    )
    budget_email: EmailAddress | None = setting(
        None,
        "E-mail address that gets the alerts at 80 % and 100 % of `monthlyBudget`, and of a forecast above it",
        default_words="none",
        example="team@example.org",
    )
    host_networks: Items[Cidr] = setting(
        (),
        "Networks that may open the page at `host`; others get an error. Let's Encrypt still reaches the address",
        default_words="every address",
        example="203.0.113.0/24",
    )
    acme_email: EmailAddress | None = setting(
        None,
        "E-mail address of the account at Let's Encrypt, which signs the certificate of `host`",
        default_words="an account without one",
        example="admin@example.org",
    )
    base_image: ImageReference | None = setting(
        None,
        "Base of the image that is built; a tag can move, and a reference that ends in @sha256:... cannot",
        default_words="rocker/rstudio by the tag in `image/Dockerfile`",
        example="rocker/rstudio:4.5.1",
    )
    r_repository: RepositoryUrl | None = setting(
        None,
        "Repository of R packages that is asked before CRAN, such as https://USER:TOKEN@packages.example.org/cran",
        secret=True,
    )

    @property
    def scales_to_zero(self) -> bool:
        """True if all workers may be removed, and their nodes with them."""
        return self.idle_minutes > 0 or self.ttl_hours > 0 or self.work_hours is not None

    @property
    def autoscaled(self) -> bool:
        """True if the cluster autoscaler owns the number of the workers' nodes.

        On spot always: a fixed number of nodes that do not come would fail the whole update.
        """
        return bool(self.spot) or self.max_workers > self.workers or self.scales_to_zero

    @property
    def falls_back(self) -> bool:
        """True if on-demand nodes take the workers for which there is no spot node."""
        return self.spot == "fallback"

    @classmethod
    @abstractmethod
    def region_of(cls, zone: str) -> str:
        """The region in which `zone` lies."""

    @model_validator(mode="before")
    @classmethod
    def _region_of_the_zone(cls, given: Any) -> Any:
        if isinstance(given, dict) and "region" not in given and isinstance(given.get("zone"), str):
            return {**given, "region": cls.region_of(given["zone"])}
        return given

    def contradictions(self) -> Iterator[Problem]:
        """Adds: a zone outside of the region, subnets of no network, packages for an image that is not built."""
        yield from super().contradictions()
        packages = {"rPackages": self.r_packages, "aptPackages": self.apt_packages, "rRepository": self.r_repository}
        given = [name for name, value in packages.items() if value]
        if self.image and given:
            only = "only with an image that is built by the stack"
            yield Problem(given[0], "set, and so is image", only, "pulumi config rm image", others=("image",))
        if self.zone and self.region_of(self.zone) != self.region:
            yield Problem(
                "zone",
                repr(self.zone),
                f"a zone of region {self.region}",
                self.key("region").command(self.region_of(self.zone)),
                others=("region",),
            )
        if self.warm_workers and not self.autoscaled:
            yield Problem(
                "warmWorkers",
                str(self.warm_workers),
                "0 where the number of nodes is fixed: only with maxWorkers above workers, idleMinutes, ttlHours, "
                "workHours or spot",
                self.key("maxWorkers").command(str(self.workers + self.warm_workers)),
                others=("maxWorkers", "workers"),
            )
        elif self.warm_workers > self.max_workers:
            yield Problem(
                "warmWorkers",
                str(self.warm_workers),
                f"at most maxWorkers, which is {self.max_workers}",
                self.key("warmWorkers").command(str(self.max_workers)),
                others=("maxWorkers",),
            )
        yield from twice(self.buckets)
        about_homes = {
            "keepHome": self.keep_home,
            "homeSnapshot": self.home_snapshot,
            "homeSnapshotDays": self.home_snapshot_days,
        }
        for name in [name for name, value in about_homes.items() if value and not self.home_gib]:
            fix = f"pulumi config rm {name}, or pulumi config set homeGiB 10"
            yield Problem(name, "set, and homeGiB is 0", "only with a home on a disk", fix, others=("homeGiB",))
        if self.subnets and not self.network:
            yield self.without_network("subnets")
        if self.monthly_budget and not self.budget_email:
            yield Problem(
                "budgetEmail",
                "not set, and monthlyBudget is",
                "the e-mail address that gets the alerts of the budget",
                self.key("budgetEmail").command(),
                others=("monthlyBudget",),
            )
        if self.budget_email and not self.monthly_budget:
            fix = self.key("monthlyBudget").command()
            only = "only together with monthlyBudget"
            yield Problem("budgetEmail", repr(self.budget_email), only, fix, others=("monthlyBudget",))
        if self.host_networks and not self.host:
            fix = self.key("host").command()
            yield Problem("hostNetworks", "set", "only together with host", fix, others=("host",))
        if self.acme_email and not self.host:
            fix = self.key("host").command()
            yield Problem("acmeEmail", repr(self.acme_email), "only together with host", fix, others=("host",))

    def addresses_of_a_given_network(self, vpc_cidr: str, default: str) -> Iterator[Problem]:
        """The problem of a `vpcCidr` that a given network does not have. default: of the setting."""
        if self.network and vpc_cidr != default:
            yield Problem(
                "vpcCidr",
                repr(vpc_cidr),
                "unset where network is set, which has its own addresses",
                "pulumi config rm vpcCidr",
                others=("network",),
            )

    def without_network(self, name: str) -> Problem:
        """The problem of a setting that has a meaning only in a given network."""
        return Problem(name, "set", "only together with network", self.key("network").command(), others=("network",))


def vpc_setting(default: str, example: str) -> Any:
    """The setting `vpcCidr` with a cloud's default."""
    return setting(
        default, "Addresses of the VPC that the stack creates; a change replaces the cluster", example=example
    )


def region_of_cloud(example: str) -> Any:
    """The setting `region` with an example of a cloud. Unset, it is the region of `zone`."""
    return setting(description="Region of the cloud", default_words="the region of `zone`", example=example)


def zone_of_nodes(example: str) -> Any:
    """The setting `zone` with an example of a cloud."""
    return setting(None, "Zone for all nodes, in the region", default_words="chosen by the cloud", example=example)


def snapshot_setting(example: str) -> Any:
    """The setting `homeSnapshot` with an example of a cloud."""
    return setting(
        None,
        f"Snapshot that a new home is made from; `{NO_SNAPSHOT}` for an empty home. It changes no home that exists",
        default_words="with `keepHome` the newest one of this stack, else none",
        example=example,
    )


def worker_machine(default: str) -> Any:
    """The setting `machineType` with a cloud's default."""
    return setting(default, "Machine type of the workers' nodes", example=default)


def system_machine(default: str) -> Any:
    """The setting `systemMachineType` with a cloud's default."""
    return setting(default, "Machine type of the node for the scheduler and the cluster's own pods", example=default)
