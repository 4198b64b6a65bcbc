"""The settings that every cloud has, as one pydantic model. A field's name in camel case is its config key.

A cloud's own settings are a subclass in that cloud's folder; `components/clouds/__init__.py` lists them. Adding a field
here or there is all that a new setting needs to be parsed, checked and documented (`make generate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from components.settings.chart_overlay import chart_value_problems
from components.settings.errors import Contradictions, Problem
from components.settings.fields import (
    AptPackage,
    ChartValues,
    ClientId,
    ClientSecret,
    Cores,
    Destination,
    DnsLabel,
    Environment,
    Gib,
    HostName,
    ImageReference,
    IssuerUrl,
    Items,
    Labels,
    LoginUser,
    Password,
    RPackage,
    Whole,
    WorkHours,
    setting,
)
from components.settings.keys import Key, key_name, keys_of
from components.settings.names import dns_name

MAX_WORKERS = 5000
"""Kubernetes supports no more than 5,000 nodes (https://kubernetes.io/docs/setup/best-practices/cluster-large/)."""

MAX_IDLE_MINUTES = 7 * 24 * 60
"""A week. Workers that may idle for longer are better kept for good, with 0."""

MAX_TTL_HOURS = 365 * 24
MAX_VOLUME_GIB = 65536


class Settings(BaseModel):
    """Settings of one stack. CPU is in cores, memory and storage in GiB, times in the unit that the name says."""

    # Validated when first used: one run of the program uses one cloud's model.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=key_name,
        hide_input_in_errors=True,
        defer_build=True,
    )

    stack: str
    """The stack's name. Not a config key."""

    cloud: str = setting(description="Where the stack runs", example="local")
    workers: Whole = setting(
        4,
        "Number of R workers at the start",
        counts="workers",
        ge=1,
        le=MAX_WORKERS,
        example=4,
        chart="worker.replicas",
    )
    max_workers: Whole = setting(
        default_factory=lambda given: given["workers"],
        default_words="as many as `workers`",
        description="Largest number of workers that R may ask for",
        counts="workers",
        ge=1,
        le=MAX_WORKERS,
        example=40,
        chart="worker.maxReplicas",
    )
    worker_cpu: Cores | None = setting(
        None,
        "Cores that each worker requests",
        default_words="a share of its node, one worker a vCPU",
        ge=0.01,
        le=512,
        example=1,
    )
    worker_memory_gib: Gib | None = setting(
        None,
        "Memory in GiB that each worker requests, also its limit",
        default_words="a share of its node",
        ge=0.0625,
        le=16384,
        example=2,
    )
    scheduler_cpu: Cores = setting(0.5, "Cores that the scheduler requests", ge=0.05, le=512, example=0.5)
    scheduler_memory_gib: Gib = setting(
        2.0, "Memory in GiB that the scheduler requests, also its limit", ge=0.25, le=16384, example=4
    )
    ide: Literal["rstudio", "jupyterlab", "both"] = setting(
        "both",
        "Web IDE in the image; with `both`, the address leads to RStudio, and JupyterLab is at /lab",
        example="rstudio",
        chart="ide",
    )
    password: Password | None = setting(
        None, "Password of the IDE", default_words="a random one, drawn once", secret=True
    )
    image: ImageReference | None = setting(
        None,
        "Image to run instead of building one; a tag is pinned to its digest",
        default_words="built from `image/`",
        example="ghcr.io/org/future-kubernetes:1.0",
    )
    r_packages: Items[RPackage] = setting(
        (), "R packages to install in the image, in addition to those for futures", example="data.table sf"
    )
    apt_packages: Items[AptPackage] = setting((), "Debian packages to install in the image", example="libgdal-dev")
    namespace: DnsLabel = setting(
        default_factory=lambda given: f"future-{dns_name(given['stack'])}",
        default_words="`future-STACK`",
        description="Kubernetes namespace",
        example="future",
    )
    create_namespace: bool = setting(True, "Create the namespace; false for one that exists already", example="false")
    resource_quota: bool = setting(
        True, "Limit a namespace that the stack creates to what `maxWorkers` need", example="false"
    )
    home_gib: Whole = setting(
        10,
        "Size in GiB of the volume at /home/rstudio, which outlives the pod; 0 for none",
        counts="GiB (0: lost with the pod)",
        ge=0,
        le=MAX_VOLUME_GIB,
        example=10,
        chart="scheduler.homeGiB",
    )
    shared_gib: Whole = setting(
        0,
        "Size in GiB of the volume at /shared, on the scheduler and all workers; 0 for none",
        counts="GiB (0: no /shared)",
        ge=0,
        le=MAX_VOLUME_GIB,
        example=100,
        chart="shared.GiB",
    )
    host: HostName | None = setting(
        None,
        "DNS name under which the IDE is public, with TLS",
        default_words="private, reached by a port-forward",
        example="r.example.org",
        chart="host",
    )
    oidc_issuer: IssuerUrl | None = setting(
        None,
        "Provider of logins (OpenID Connect) that asks each user of `host`, before the IDE asks for its password",
        default_words="no single sign-on",
        example="https://accounts.google.com",
        chart="oidc.issuer",
    )
    oidc_client_id: ClientId | None = setting(
        None,
        "ID by which the provider at `oidcIssuer` knows this stack",
        default_words="none",
        example="0123456789.apps.example.org",
        chart="oidc.clientId",
    )
    oidc_client_secret: ClientSecret | None = setting(
        None, "Secret that belongs to `oidcClientId`", default_words="none", secret=True
    )
    oidc_users: Items[LoginUser] = setting(
        (),
        "Who may log in by `oidcIssuer`: e-mail addresses, @DOMAIN for all of a domain, or * for everybody whom the "
        "provider lets in",
        default_words="no one",
        example="ada@example.org,@statistics.example.org",
    )
    idle_minutes: Whole = setting(
        0,
        "Minutes without a session or a running future after which workers are scaled to 0; 0 for never",
        counts="minutes (0: never)",
        ge=0,
        le=MAX_IDLE_MINUTES,
        example=30,
        chart="idleMinutes",
    )
    cull_idle_kernels: bool = setting(
        False,
        "Shut down a notebook's kernel that has been idle for `idleMinutes`, without a future that waits or runs. "
        "That frees its memory and loses its variables. Sessions of RStudio stay",
        example="true",
        chart="cullIdleKernels",
    )
    pause_rollouts: bool = setting(
        False,
        "Keep the scheduler and the workers that run as they are through `pulumi up`, so that R sessions and futures "
        "go on. What it changed in their pods takes effect with the first `pulumi up` without this",
        example="true",
        chart="pauseRollouts",
    )
    ttl_hours: Whole = setting(
        0,
        "Hours after the first `pulumi up` at which workers are scaled to 0 and can no longer be started (workers in "
        "use finish first); 0 for never. Does not delete the cluster: run `pulumi destroy`",
        counts="hours (0: for ever)",
        ge=0,
        le=MAX_TTL_HOURS,
        example=72,
        chart="ttlHours",
    )
    work_hours: WorkHours | None = setting(
        None,
        "Days, hours and time zone outside of which workers are scaled to 0 and none can be started (workers in use "
        "finish first)",
        default_words="always",
        example="Mon-Fri 08:00-18:00 Europe/Berlin",
        chart="workHours",
    )
    environment: Environment = setting(
        {},
        "Environment variables of every R session and worker, such as addresses and keys; secret ones by "
        "`pulumi config set --secret --path environment.NAME`. R sessions that start later see a change",
        shown=False,
        example='{"PGHOST": "db.example.org"}',
    )
    egress: Items[Destination] = setting(
        (),
        "Addresses of databases and other private services that scheduler and workers may connect to, each with its "
        "TCP port. Public addresses they reach anyway",
        default_words="no private address",
        example="10.20.0.7:5432,10.30.0.0/16:443",
    )
    labels: Labels = setting(
        {}, "Labels and tags on every resource, for cost reports", example="team=statistics", chart="labels"
    )
    monitoring: bool = setting(
        False,
        "Have the Prometheus operator of the cluster read the metrics, with alerts and a Grafana dashboard. On a "
        "new cluster, set it once the operator is installed. `chartValues.monitoring` has the budget and details",
        example="true",
        chart="monitoring.enabled",
    )
    chart_values: ChartValues = setting(
        {},
        "Map laid over the values of the chart, for what has no key of its own: pull secrets, CPU limits, priority, "
        "egress by labels, extra environment variables. Maps are merged, lists are appended to. Nothing secret belongs "
        "into it",
        plain=True,
        example='{"worker": {"priorityClassName": "batch"}}',
    )

    @property
    def name(self) -> str:
        """`future-<stack>`: the name of the cluster and of the release, and the start of every other name."""
        return f"future-{dns_name(self.stack)}"

    @property
    def makes_namespace(self) -> bool:
        """True if the stack creates its namespace. Kubernetes has `default` already."""
        return self.create_namespace and self.namespace != "default"

    @classmethod
    def key(cls, name: str) -> Key:
        """The config key `name` of this model."""
        return keys_of(cls)[name]

    def contradictions(self) -> Iterator[Problem]:
        """Settings that are valid one by one and wrong together. A cloud's model adds its own."""
        if self.max_workers < self.workers:
            yield Problem(
                "maxWorkers",
                str(self.max_workers),
                f"at least workers, which is {self.workers}",
                self.key("maxWorkers").command(str(self.workers)),
                others=("workers",),
            )
        if self.cull_idle_kernels and not self.idle_minutes:
            yield Problem(
                "cullIdleKernels",
                "true",
                "only with idleMinutes, which is 0 (never)",
                self.key("idleMinutes").command("60"),
                others=("idleMinutes",),
            )
        yield from self._incomplete_login()
        yield from chart_value_problems(self.chart_values, keys_of(type(self)))

    def _incomplete_login(self) -> Iterator[Problem]:
        """A single sign-on that lacks a part, or the parts of none."""
        parts = {
            "oidcClientId": self.oidc_client_id,
            "oidcClientSecret": self.oidc_client_secret,
            "oidcUsers": self.oidc_users,
        }
        if not self.oidc_issuer:
            for name in [name for name, value in parts.items() if value]:
                fix = self.key("oidcIssuer").command()
                yield Problem(name, "set", "only together with oidcIssuer", fix, others=("oidcIssuer",))
            return
        for name in [name for name, value in parts.items() if not value]:
            fix = self.key(name).command()
            yield Problem(name, "not set, and oidcIssuer is", self.key(name).allowed, fix, others=("oidcIssuer",))
        if not self.host:
            fix = self.key("host").command()
            yield Problem("oidcIssuer", self.oidc_issuer, "only together with host", fix, others=("host",))

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        problems = list(self.contradictions())
        if problems:
            raise Contradictions(problems)
        return self
