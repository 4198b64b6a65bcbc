"""The stack's config as one frozen `Settings`, parsed once; every wrong setting is reported at once.

Nothing else reads config. Which values make sense together is decided here, as far as it can be known without asking a
cloud; whether a region or a machine type exists is asked by the cloud's own component.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

import pulumi
from pulumi.runtime import config as runtime_config

CLOUDS = ("local", "kubeconfig", "gke", "eks")
IDES = ("rstudio", "jupyterlab")

MAX_WORKERS = 5000
"""Kubernetes supports no more than 5,000 nodes (https://kubernetes.io/docs/setup/best-practices/cluster-large/)."""

MIN_PASSWORD_LENGTH = 8


@dataclass(frozen=True)
class Problem:
    """One wrong setting: its key, what was given (None hides it), what is allowed, and the command that fixes it."""

    key: str
    given: str | None
    allowed: str
    fix: str

    def __str__(self) -> str:
        given = "" if self.given is None else f" is {self.given}"
        return f"{self.key}{given}\n    allowed: {self.allowed}\n    fix:     {self.fix}"


class SettingsError(pulumi.RunError):
    """Every wrong setting of the stack, in one message. Pulumi prints a RunError without a stack trace."""

    def __init__(self, stack: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 setting is" if len(problems) == 1 else f"{len(problems)} settings are"
        text = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{count} wrong in stack {stack!r}:\n{text}")


@dataclass(frozen=True)
class Settings:
    """What the user asked for. Names are those of the config keys, in snake case; see `Pulumi.yaml` for each.

    CPU is in cores, memory and storage in GiB, times in the unit that the name says. A field that is None was not set
    and the component chooses.
    """

    stack: str
    cloud: str
    workers: int
    max_workers: int
    namespace: str
    ide: str
    name: str
    """`future-<stack>`: the name of the cluster and of the release, and the start of every other name."""
    machine_type: str | None = None
    system_machine_type: str | None = None
    spot: bool = False
    region: str | None = None
    zone: str | None = None
    project: str | None = None
    kubeconfig: str | None = None
    kubeconfig_text: str | None = field(default=None, repr=False)
    context: str | None = None
    image: str | None = None
    base_image: str | None = None
    r_packages: tuple[str, ...] = ()
    apt_packages: tuple[str, ...] = ()
    r_repository: str | None = field(default=None, repr=False)
    password: pulumi.Output[str] | None = field(default=None, repr=False)
    worker_cpu: float | None = None
    worker_memory_gib: float | None = None
    scheduler_cpu: float = 0.5
    scheduler_memory_gib: float = 2.0
    home_gib: int = 10
    shared_gib: int = 0
    host: str | None = None
    idle_minutes: int = 0
    ttl_hours: int = 0
    create_namespace: bool = True
    resource_quota: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    authorized_networks: tuple[str, ...] = ()
    network: str | None = None
    subnets: tuple[str, ...] = ()
    public_subnets: tuple[str, ...] = ()
    nat_per_zone: bool = False
    team_roles: tuple[str, ...] = ()
    admin_roles: tuple[str, ...] = ()

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may grow beyond what the stack asks for."""
        return self.max_workers > self.workers

    @classmethod
    def load(cls) -> Settings:
        """The settings of the running stack. Raises `SettingsError` naming every wrong one."""
        values, secrets = configured(pulumi.get_project())
        return parse(values, stack=pulumi.get_stack(), secrets=secrets)


class Wrong(ValueError):  # noqa: N818 - never leaves this module
    """A value that a parser refuses; its text says what is allowed."""


Parser = Callable[[Any], Any]


def whole(low: int, high: int, what: str) -> Parser:
    """A parser of whole numbers from `low` to `high`; `what` says what they count."""

    def parse_whole(value: Any) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,18}", text) or not low <= int(text) <= high:
            raise Wrong(f"a whole number of {what} from {low} to {high}")
        return int(text)

    return parse_whole


def decimal(low: float, high: float, what: str) -> Parser:
    """A parser of numbers from `low` to `high`, decimals allowed; `what` gives unit and an example."""

    def parse_decimal(value: Any) -> float:
        allowed = f"{what}, from {low:g} to {high:g}"
        try:
            number = float(Decimal(str(value).strip()))
        except InvalidOperation:
            raise Wrong(allowed) from None
        if isinstance(value, bool) or not math.isfinite(number) or not low <= number <= high:
            raise Wrong(allowed)
        return number

    return parse_decimal


def yes_or_no(value: Any) -> bool:
    """True or false, as YAML or as text."""
    text = str(value).strip().lower()
    if text not in ("true", "false"):
        raise Wrong("true or false")
    return text == "true"


def one_of(choices: Sequence[str]) -> Parser:
    """A parser of one word out of `choices`."""

    def parse_choice(value: Any) -> str:
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise Wrong(f"one of {', '.join(choices)}{hint}")
        return str(value)

    return parse_choice


def matching(pattern: str, allowed: str, limit: int = 253) -> Parser:
    """A parser of text that matches `pattern` in whole and has at most `limit` characters."""

    def parse_text(value: Any) -> str:
        if not isinstance(value, str) or len(value) > limit or not re.fullmatch(pattern, value):
            raise Wrong(f"{allowed}, at most {limit} characters" if limit < 253 else allowed)
        return value

    return parse_text


def listed(item: Parser) -> Parser:
    """A parser of a YAML list, or of text with commas or blanks between the items."""

    def parse_list(value: Any) -> tuple[str, ...]:
        items = value if isinstance(value, list) else re.split(r"[,\s]+", str(value).strip())
        wrong: list[str] = []
        parsed: list[str] = []
        for entry in items:
            if entry == "":
                continue
            try:
                parsed.append(item(entry))
            except Wrong as error:
                wrong.append(f"{entry!r} is not {error}")
        if wrong:
            raise Wrong(f"a list in which each item is right: {'; '.join(wrong)}")
        return tuple(dict.fromkeys(parsed))

    return parse_list


def cidr(value: Any) -> str:
    """An IPv4 or IPv6 network."""
    try:
        return str(ipaddress.ip_network(str(value).strip()))
    except ValueError as error:
        raise Wrong(f"a network such as 203.0.113.0/24 ({error})") from None


# The narrowest of three rules, so that one label serves Kubernetes, Google Cloud (labels) and AWS (tags):
# https://cloud.google.com/compute/docs/labeling-resources#requirements
LABEL_KEY = r"[a-z]([a-z0-9_-]{0,61}[a-z0-9])?"
LABEL_VALUE = r"([a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)?"
LABELS_ALLOWED = (
    "name=value pairs with commas between, such as team=statistics,course=243: lower-case letters, digits, - and _"
)


def pairs(value: Any) -> dict[str, str]:
    """Labels, as a YAML map or as `a=b,c=d`."""
    entries: dict[str, str] = {}
    if isinstance(value, dict):
        entries = {str(key): str(entry) for key, entry in value.items()}
    else:
        for part in filter(None, re.split(r"[,\s]+", str(value))):
            key, equals, entry = part.partition("=")
            if not equals:
                raise Wrong(f"{LABELS_ALLOWED} ({part!r} has no =)")
            entries[key] = entry
    for key, entry in entries.items():
        if not re.fullmatch(LABEL_KEY, key) or not re.fullmatch(LABEL_VALUE, entry):
            raise Wrong(f"{LABELS_ALLOWED} ({key}={entry} breaks this)")
    return entries


DNS_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
dns_label = matching(DNS_LABEL, "lower-case letters, digits and inner hyphens (a DNS-1123 label)", 63)
host_name = matching(
    rf"(?=.{{4,253}}$){DNS_LABEL}(\.{DNS_LABEL})+",
    "a full DNS name that you own, such as r.example.org, without https://",
)
machine = matching(r"[a-z][a-z0-9.-]*[a-z0-9]", "a machine type of the cloud, such as e2-standard-4 or m7i.xlarge", 63)
# https://github.com/distribution/reference/blob/main/regexp.go, without the parts nobody writes.
image_reference = matching(
    r"([\w.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    "an image reference, such as ghcr.io/org/image:1.0 or one that ends in @sha256:...",
    500,
)
r_package = matching(r"[A-Za-z][A-Za-z0-9.]*[A-Za-z0-9]", "the name of an R package", 100)
apt_package = matching(r"[a-z0-9][a-z0-9+.-]+", "the name of a Debian package", 100)
any_line = matching(r"[^\x00-\x1f]+", "one line of text", 1000)


def secret_text(value: Any) -> str:
    """A password, checked without ever being repeated in a message."""
    if (
        not isinstance(value, str)
        or len(value) < MIN_PASSWORD_LENGTH
        or not value.isprintable()
        or value != value.strip()
    ):
        raise Wrong(f"at least {MIN_PASSWORD_LENGTH} printable characters, none of them a blank at either end")
    return value


def repository_url(value: Any) -> str:
    """The URL of a repository of R packages, whose password is never repeated in a message."""
    if not isinstance(value, str) or not re.fullmatch(r"https://[^\s/]+(/\S*)?", value):
        raise Wrong("a URL that begins with https://, such as https://USER:TOKEN@packages.example.org/cran")
    return value


def kubeconfig_path(value: Any) -> str:
    """A path. What is none may be a kubeconfig itself, with its credentials, and is not repeated in a message."""
    try:
        return str(any_line(value))
    except Wrong:
        raise Wrong("the path of a kubeconfig; for a kubeconfig itself there is kubeconfigText") from None


def kubeconfig_text(value: Any) -> str:
    """A kubeconfig, YAML or JSON, checked without ever being repeated in a message."""
    if not isinstance(value, str) or "clusters" not in value or len(value) > 1_000_000:
        raise Wrong("a kubeconfig's own text; for a path there is kubeconfig")
    return value


@dataclass(frozen=True)
class Key:
    """One config key: its name as users write it, its parser, an example for the fixing command, and its default."""

    name: str
    parse: Parser
    example: str
    default: Any = None
    clouds: tuple[str, ...] = CLOUDS
    """Where the key has a meaning. Set elsewhere it is an error rather than ignored."""
    secret: bool = False

    @property
    def field(self) -> str:
        """The name of the field of `Settings`."""
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", self.name).lower()
        return snake.replace("memory_gi_b", "memory_gib").replace("_gi_b", "_gib")


BUILT = ("gke", "eks")

KEYS = {
    key.name: key
    for key in (
        Key("cloud", one_of(CLOUDS), "local"),
        Key("workers", whole(1, MAX_WORKERS, "workers"), "4", 4),
        Key("maxWorkers", whole(1, MAX_WORKERS, "workers"), "40"),
        Key("machineType", machine, "e2-standard-4", None, BUILT),
        Key("systemMachineType", machine, "e2-standard-2", None, BUILT),
        Key("spot", yes_or_no, "true", False, BUILT),
        Key("region", matching(r"[a-z]+(-[a-z]+)+-?\d+", "a region of the cloud", 40), "us-west1", None, BUILT),
        Key("zone", matching(r"[a-z]+(-[a-z]+)+-?\d+-?[a-z]", "a zone of the cloud", 40), "us-west1-a", None, BUILT),
        Key(
            "project",
            matching(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", "a Google Cloud project ID"),
            "my-project",
            None,
            ("gke",),
        ),
        Key("kubeconfig", kubeconfig_path, "~/.kube/config", None, ("kubeconfig", "local")),
        Key("kubeconfigText", kubeconfig_text, "", None, ("kubeconfig",), secret=True),
        Key("context", any_line, "my-context", None, ("kubeconfig", "local")),
        Key("namespace", dns_label, "future"),
        Key("ide", one_of(IDES), "rstudio", "rstudio"),
        Key("image", image_reference, "ghcr.io/org/future-kubernetes:1.0"),
        Key("baseImage", image_reference, "rocker/rstudio:4.5.1", None, BUILT),
        Key("rPackages", listed(r_package), "'data.table sf'", ()),
        Key("aptPackages", listed(apt_package), "'libgdal-dev'", ()),
        Key("rRepository", repository_url, "", None, BUILT, secret=True),
        Key("password", secret_text, "", None, CLOUDS, secret=True),
        Key("workerCpu", decimal(0.01, 512, "a number of cores, such as 1 or 0.5"), "1"),
        Key("workerMemoryGiB", decimal(0.0625, 16384, "an amount of memory in GiB, such as 3.5"), "2"),
        Key("schedulerCpu", decimal(0.05, 512, "a number of cores, such as 1 or 0.5"), "0.5", 0.5),
        Key("schedulerMemoryGiB", decimal(0.25, 16384, "an amount of memory in GiB, such as 3.5"), "2", 2.0),
        Key("homeGiB", whole(0, 65536, "GiB (0: lost with the pod)"), "10", 10),
        Key("sharedGiB", whole(0, 65536, "GiB (0: no /shared)"), "100", 0),
        Key("host", host_name, "r.example.org"),
        Key("idleMinutes", whole(0, 10080, "minutes (0: never)"), "30", 0),
        Key("ttlHours", whole(0, 8760, "hours (0: for ever)"), "72", 0),
        Key("createNamespace", yes_or_no, "false", True),
        Key("resourceQuota", yes_or_no, "true", True),
        Key("labels", pairs, "team=statistics", {}),
        Key("authorizedNetworks", listed(cidr), "203.0.113.0/24", (), BUILT),
        Key("network", any_line, "my-network", None, BUILT),
        Key("subnets", listed(any_line), "my-subnet", (), BUILT),
        Key("publicSubnets", listed(any_line), "subnet-0123456789abcdef0", (), ("eks",)),
        Key("natPerZone", yes_or_no, "true", False, ("eks",)),
        Key("teamRoles", listed(any_line), "arn:aws:iam::123456789012:role/statistics", (), ("eks",)),
        Key("adminRoles", listed(any_line), "arn:aws:iam::123456789012:role/operators", (), ("eks",)),
    )
}


def configured(project: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Every key set in the project's namespace with its value, and which of them are secrets.

    `pulumi.Config` can be asked for a key only by its name, which would let a misspelt key pass unseen.
    """
    raw: dict[str, Any] = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    prefix = f"{project}:"
    values = {name.removeprefix(prefix): value for name, value in raw.items() if name.startswith(prefix)}
    marked = {*runtime_config.get_config_secret_keys_env(), *runtime_config._SECRET_KEYS.get()}
    return values, frozenset(name.removeprefix(prefix) for name in marked if name.startswith(prefix))


def parse(values: Mapping[str, Any], *, stack: str, secrets: frozenset[str] = frozenset()) -> Settings:
    """Settings from config values (text, or what JSON text holds), or a `SettingsError` that names every wrong one.

    values: by config key, as Pulumi hands them over. secrets: the keys that the stack keeps encrypted.
    """
    problems: list[Problem] = []
    given = {name: decoded(name, value) for name, value in values.items()}
    given = {name: value for name, value in given.items() if not is_unset(value)}
    problems += [unknown(name) for name in given if name not in KEYS]

    parsed: dict[str, Any] = {}
    failed: set[str] = set()
    for key in KEYS.values():
        if key.name not in given:
            parsed[key.name] = key.default
            continue
        try:
            parsed[key.name] = key.parse(given[key.name])
        except Wrong as error:
            failed.add(key.name)
            parsed[key.name] = key.default
            shown = None if key.secret or key.parse is kubeconfig_path else repr(given[key.name])
            problems.append(Problem(key.name, shown, str(error), command(key)))

    cloud = parsed["cloud"]
    if "cloud" not in given:
        problems.append(Problem("cloud", "not set", f"one of {', '.join(CLOUDS)}", "pulumi config set cloud local"))
    problems += misplaced(parsed, given, cloud)
    problems += plain_secrets(given, secrets)
    problems += contradictions(parsed, failed, cloud)
    problems += wrong_stack_name(stack)
    if problems:
        raise SettingsError(stack, problems)

    name = f"future-{dns_name(stack)}"
    fields = {KEYS[name].field: value for name, value in parsed.items()}
    fields["max_workers"] = parsed["maxWorkers"] or parsed["workers"]
    fields["namespace"] = parsed["namespace"] or name
    fields["region"] = parsed["region"] or (region_of(cloud, parsed["zone"]) if parsed["zone"] else None)
    fields["password"] = pulumi.Output.secret(parsed["password"]) if parsed["password"] else None
    return Settings(stack=stack, name=name, **fields)


def decoded(name: str, value: Any) -> Any:
    """A value as YAML had it: Pulumi hands lists and maps over as JSON text."""
    key = KEYS.get(name)
    if isinstance(value, str) and value[:1] in "[{" and value and not (key and key.secret):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def is_unset(value: Any) -> bool:
    """Whether a value stands for nothing. 0 and false do not: `workers: 0` must be an error, not a default."""
    return value is None or value in ("", [], {}, ())


def unknown(name: str) -> Problem:
    """The problem of a key that does not exist, with the near one."""
    by_lower = {known.lower(): known for known in KEYS}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if not near:
        return Problem(name, None, f"no such key; there are {', '.join(KEYS)}", f"pulumi config rm {name}")
    meant = KEYS[by_lower[near[0]]]
    fix = f"pulumi config rm {name} && {command(meant)}"
    return Problem(name, None, f"no such key; did you mean {meant.name}?", fix)


def command(key: Key, value: str | None = None) -> str:
    """The command that sets `key`, with an example value unless one is given. A secret is read from the terminal."""
    if key.secret:
        return f"pulumi config set --secret {key.name}"
    return f"pulumi config set {key.name} {value if value is not None else key.example}"


def misplaced(parsed: Mapping[str, Any], given: Mapping[str, Any], cloud: str | None) -> list[Problem]:
    """Keys that were set to something but mean nothing on this cloud, which the user would believe to be in force."""
    return [
        Problem(
            key.name,
            "set" if key.secret else repr(given[key.name]),
            f"only where cloud is {' or '.join(key.clouds)}; here it is {cloud}",
            f"pulumi config rm {key.name}",
        )
        for key in KEYS.values()
        if cloud and key.name in given and cloud not in key.clouds and parsed[key.name] != key.default
    ]


def plain_secrets(given: Mapping[str, Any], secrets: frozenset[str]) -> list[Problem]:
    """Secrets that stand in the stack's file in plain text."""
    return [
        Problem(key.name, None, "kept encrypted only; here it stands in plain text", command(key))
        for key in KEYS.values()
        if key.secret and key.name in given and key.name not in secrets
    ]


def region_of(cloud: str, zone: str) -> str:
    """The region that a zone lies in: `us-west1-a` is in `us-west1` (Google), `us-west-2a` in `us-west-2` (AWS)."""
    return zone[:-2] if cloud == "gke" else zone[:-1]


REGION_FORMS = {
    "gke": (r"[a-z]+-[a-z]+\d+", r"[a-z]+-[a-z]+\d+-[a-z]", "us-west1", "us-west1-a"),
    "eks": (r"[a-z]{2}(-[a-z]+)+-\d+", r"[a-z]{2}(-[a-z]+)+-\d+[a-z]", "us-west-2", "us-west-2a"),
}


def contradictions(parsed: Mapping[str, Any], failed: set[str], cloud: str | None) -> list[Problem]:
    """Settings that are right each by itself and wrong together."""
    problems: list[Problem] = []
    workers, most = parsed["workers"], parsed["maxWorkers"]
    if most is not None and most < workers and not failed & {"workers", "maxWorkers"}:
        problems.append(
            Problem(
                "maxWorkers",
                str(most),
                f"at least workers, which is {workers}",
                command(KEYS["maxWorkers"], str(workers)),
            )
        )
    baked = [name for name in ("rPackages", "aptPackages", "rRepository") if parsed[name]]
    if parsed["image"] and baked and cloud in ("gke", "eks", "kubeconfig"):
        name = baked[0]
        problems.append(
            Problem(name, "set, and so is image", "only with an image that is built here", "pulumi config rm image")
        )
    if cloud == "local" and not parsed["image"] and "image" not in failed:
        problems.append(Problem("image", "not set", "the image that `make up` builds and hands over", "make up"))
    if cloud == "kubeconfig" and not parsed["image"] and "image" not in failed:
        problems.append(
            Problem(
                "image",
                "not set",
                "the reference of an image that the cluster can pull (this cloud brings no registry of its own)",
                command(KEYS["image"]),
            )
        )
    if parsed["kubeconfig"] and parsed["kubeconfigText"]:
        problems.append(
            Problem("kubeconfig", "set, and so is kubeconfigText", "one of them", "pulumi config rm kubeconfig")
        )
    if cloud == "gke" and not parsed["project"] and "project" not in failed:
        problems.append(Problem("project", "not set", "a Google Cloud project ID", command(KEYS["project"])))
    if cloud in REGION_FORMS:
        problems += wrong_place(parsed, failed, cloud)
    problems += [
        Problem(key, "set", "only together with network", command(KEYS["network"]))
        for key in ("subnets", "publicSubnets")
        if parsed[key] and not parsed["network"]
    ]
    return problems


def wrong_place(parsed: Mapping[str, Any], failed: set[str], cloud: str) -> list[Problem]:
    """Region and zone that are missing, of another cloud's form, or not in one another."""
    if failed & {"region", "zone"}:
        return []
    region, zone = parsed["region"], parsed["zone"]
    region_form, zone_form, region_example, zone_example = REGION_FORMS[cloud]
    problems = []
    if not region and not zone:
        problems.append(
            Problem("region", "not set", f"a region, such as {region_example}", command(KEYS["region"], region_example))
        )
    if region and not re.fullmatch(region_form, region):
        allowed = f"a region of {cloud}, such as {region_example}"
        problems.append(Problem("region", repr(region), allowed, command(KEYS["region"], region_example)))
    if zone and not re.fullmatch(zone_form, zone):
        allowed = f"a zone of {cloud}, such as {zone_example}"
        problems.append(Problem("zone", repr(zone), allowed, command(KEYS["zone"], zone_example)))
    elif zone and region and region_of(cloud, zone) != region:
        allowed = f"a zone of region {region}"
        problems.append(Problem("zone", repr(zone), allowed, command(KEYS["region"], region_of(cloud, zone))))
    return problems


MAX_STACK_NAME = 29
"""Keeps `future-<stack>` within the 36 characters that the chart leaves to names, and the 40 of a GKE cluster."""


def dns_name(text: str) -> str:
    """`text` as a DNS-1123 label: lower case, everything else a hyphen. Stack names may hold `_`, `.` and capitals."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def wrong_stack_name(stack: str) -> list[Problem]:
    """The problem of a stack name from which no resource name can be made."""
    if 0 < len(dns_name(stack)) <= MAX_STACK_NAME:
        return []
    return [
        Problem(
            "the stack's name",
            repr(stack),
            f"at most {MAX_STACK_NAME} characters, some of them letters or digits",
            "pulumi stack rename a-shorter-name",
        )
    ]


def short_name(name: str, limit: int) -> str:
    """`name` in at most `limit` characters: cut, with a hash of the whole at its end so that two never become one."""
    if len(name) <= limit:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: limit - 7].rstrip('-')}-{digest}"
