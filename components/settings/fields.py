"""Types of the values that a setting can have, and `setting`, which declares one.

A type is a pydantic type with the words for what it allows; messages and docs/settings.md are written from these words.
A `ValueError` raised here becomes the detail of a message, in parentheses after those words: it must repeat no secret.
"""

from __future__ import annotations

import ipaddress
import math
import re
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints
from pydantic_core import PydanticUndefined

Item = TypeVar("Item")


@dataclass(frozen=True)
class Allowed:
    """The words for what a type allows, such as `an IPv4 network such as 203.0.113.0/24`."""

    words: str


def setting(
    default: Any = PydanticUndefined,
    description: str = "",
    *,
    example: Any = "",
    counts: str = "",
    ge: float | None = None,
    le: float | None = None,
    secret: bool = False,
    shown: bool = True,
    plain: bool = False,
    chart: str = "",
    default_factory: Callable[[dict[str, Any]], Any] | None = None,
    default_words: str = "",
    missing: str = "",
    fix: str = "",
) -> Any:
    """A field of the model that users set.

    example: a valid value for messages and documentation. counts: what a whole number counts. ge, le: the range.
    secret: only accepted encrypted, and never shown. shown: False keeps the given value out of messages.
    plain: refused encrypted, since the value ends up where everybody can read it.
    chart: path of the value of the chart that the setting is passed to as it is.
    default_words: the default where it is not one value. missing: what to say where a required setting is absent.
    fix: the command for a required setting that is absent, or for an optional one that is wrong.
    """
    words = {
        "counts": counts,
        "secret": secret,
        "shown": shown,
        "plain": plain,
        "chart": chart,
        "default": default_words,
    }
    options: dict[str, Any] = {
        "description": description,
        "examples": [example],
        "ge": ge,
        "le": le,
        "json_schema_extra": {**words, "missing": missing, "fix": fix},
    }
    return Field(default_factory=default_factory, **options) if default_factory else Field(default, **options)


def matching(pattern: str, max_length: int = 253) -> StringConstraints:
    r"""Text that matches the whole of `pattern` and has at most `max_length` characters.

    Without \w and \d: they stand for all of Unicode, and repeated some 100 times they took 19 MiB and 45 ms to compile.
    """
    return StringConstraints(pattern=f"^(?:{pattern})$", max_length=max_length)


def whole_number(value: Any) -> int:
    """A whole number from config text. YAML's `true` is not the number 1."""
    if isinstance(value, bool) or not re.fullmatch(r"\s*[+-]?\d{1,18}\s*", str(value)):
        raise ValueError
    return int(str(value))


def decimal_number(value: Any) -> float:
    """A finite number from config text. YAML's `true` is not the number 1."""
    try:
        number = float(str(value))  # the text True is no number
    except ValueError:
        raise ValueError from None  # without Python's own words, which name a float
    if not math.isfinite(number):
        raise ValueError
    return number


def items(value: Any) -> list[Any] | Mapping[Any, Any]:
    """The items of a YAML list, or of text with commas or blanks between the items. A map stays, and is refused."""
    if isinstance(value, Mapping):
        return value
    entries = value if isinstance(value, list | tuple) else re.split(r"[,\s]+", str(value))
    return [entry for entry in entries if entry != ""]


def without_repeats(value: tuple[Item, ...]) -> tuple[Item, ...]:
    """The items in their order, each once."""
    return tuple(dict.fromkeys(value))


def network(value: str) -> str:
    """An IPv4 network in its usual notation. GKE and EKS refuse IPv6 for the control plane, EKS after its network."""
    if ":" in value:
        raise ValueError("GKE and EKS take only IPv4 here")
    return str(ipaddress.IPv4Network(value.strip()))


LINK_LOCAL = ipaddress.IPv4Network("169.254.0.0/16"), ipaddress.IPv6Network("fe80::/10")


def destination(value: str) -> str:
    """A network and a port in their usual notation: `10.20.0.0/16:443`, `[2001:db8::/32]:443`.

    A name is refused: a network policy takes only addresses, and those of a name may change without notice.
    """
    host, _, port = value.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("it does not end in a port, such as :5432")
    address = host.removeprefix("[").removesuffix("]")
    if not re.fullmatch(r"[0-9./]+|[0-9A-Fa-f:./]*:[0-9A-Fa-f:./]*", address):
        raise ValueError(
            f"{address} is a name, and network policies take only addresses: `getent ahosts {address}` prints them, "
            "seen from where you are; better is the network of the service, which stays"
        )
    found = ipaddress.ip_network(address)
    if any(found.version == each.version and found.overlaps(each) for each in LINK_LOCAL):
        raise ValueError(f"{found} has link-local addresses, where clouds hand out the credentials of a node")
    return f"{found}:{port}" if found.version == 4 else f"[{found}]:{port}"


# The narrowest of three rules, so that one label serves Kubernetes, Google Cloud (labels) and AWS (tags):
# https://cloud.google.com/compute/docs/labeling-resources#requirements
LABEL_KEY = r"[a-z]([a-z0-9_-]{0,61}[a-z0-9])?"
LABEL_VALUE = r"([a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)?"


def label_map(value: Any) -> dict[str, str]:
    """Labels from a YAML map or from `a=b,c=d`."""
    if isinstance(value, dict):
        entries = {str(key): str(entry) for key, entry in value.items()}
    else:
        parts = items(value)
        unpaired = next((part for part in parts if "=" not in str(part)), None)
        if unpaired is not None:
            raise ValueError(f"{unpaired!r} has no =")
        entries = dict(part.split("=", 1) for part in parts)
    for key, entry in entries.items():
        if not re.fullmatch(LABEL_KEY, key) or not re.fullmatch(LABEL_VALUE, entry):
            raise ValueError(f"{key}={entry} breaks this")
    return entries


VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,200}"
OWN_VARIABLES = r"PATH|HOME|USER|LOGNAME|SHELL|HOSTNAME|TMPDIR|R_HOME|(LD|POD|NODE|KUBERNETES|FUTURE_KUBERNETES)_.*"
"""Variables that the pods themselves are made of."""


def environment_map(value: Any) -> dict[str, str]:
    """Environment variables from a YAML map. An error names the variable and never its value, which may be secret."""
    if not isinstance(value, dict):
        raise ValueError("it is no map")
    for name, entry in value.items():
        if not re.fullmatch(VARIABLE, str(name)):
            raise ValueError(f"{name} is no name of a variable")
        if re.fullmatch(OWN_VARIABLES, str(name)):
            raise ValueError(f"{name} belongs to the pod itself")
        if isinstance(entry, bool) or not isinstance(entry, str | int | float):
            raise ValueError(f"the value of {name} is no text: write it in quotes")
        if "\0" in str(entry):
            raise ValueError(f"the value of {name} has a zero byte")
    return {str(name): str(entry) for name, entry in value.items()}


MIN_PASSWORD_LENGTH = 8


def typed_password(value: SecretStr) -> SecretStr:
    """A password that a person can type into a login form."""
    text = value.get_secret_value()
    if len(text) < MIN_PASSWORD_LENGTH or not text.isprintable() or text != text.strip():
        raise ValueError
    return value


def https_url(value: SecretStr) -> SecretStr:
    """A URL that begins with https://; a password in it travels encrypted."""
    if not re.fullmatch(r"https://[^\s/]+(/\S*)?", value.get_secret_value()):
        raise ValueError
    return value


def one_line(value: SecretStr) -> SecretStr:
    """A text without a blank, such as a key, as a provider shows it."""
    if not re.fullmatch(r"[!-~]{8,1000}", value.get_secret_value()):
        raise ValueError
    return value


def whole_kubeconfig(value: SecretStr) -> SecretStr:
    """The text of a kubeconfig, YAML or JSON."""
    if "clusters" not in value.get_secret_value() or len(value) > 1_000_000:
        raise ValueError
    return value


DAY, CLOCK = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)", r"([01][0-9]|2[0-3]):[0-5][0-9]"
WORK_HOURS = rf"{DAY}(-{DAY})? {CLOCK}-{CLOCK} [A-Za-z0-9_+/-]+"


def hours_of_a_week(value: str) -> str:
    """Days, hours and a time zone that exists. Equal times would be a whole day or no time at all."""
    _, hours, zone = value.split(" ")
    if hours[:5] == hours[6:]:
        raise ValueError("begin and end are the same time")
    try:
        zoneinfo.ZoneInfo(zone)
    except Exception as error:  # OSError, ValueError or KeyError, by the form of the name
        raise ValueError(f"there is no time zone {zone}") from error
    return value


WorkHours = Annotated[
    str,
    matching(WORK_HOURS, 100),
    AfterValidator(hours_of_a_week),
    Allowed("days, hours and time zone, such as Mon-Fri 08:00-18:00 Europe/Berlin"),
]
Whole = Annotated[int, BeforeValidator(whole_number)]
Cores = Annotated[float, BeforeValidator(decimal_number), Allowed("a number of cores, such as 1 or 0.5")]
Gib = Annotated[float, BeforeValidator(decimal_number), Allowed("an amount of memory in GiB, such as 3.5")]

DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DnsLabel = Annotated[
    str, matching(DNS_LABEL, 63), Allowed("lower-case letters, digits and inner hyphens (a DNS-1123 label)")
]
HostName = Annotated[
    str,
    matching(rf"{DNS_LABEL}(\.{DNS_LABEL})+"),
    Allowed("a full DNS name that you own, such as r.example.org, without https://"),
]
EmailAddress = Annotated[
    str,
    matching(rf"[A-Za-z0-9.!#$%&'*+/=?^_{{|}}~-]{{1,64}}@{DNS_LABEL}(\.{DNS_LABEL})+"),
    Allowed("an e-mail address"),
]
MachineType = Annotated[
    str,
    matching(r"[a-z][a-z0-9.-]*[a-z0-9]", 63),
    Allowed("a machine type of the cloud, such as e2-standard-4 or m7i.xlarge"),
]
# https://github.com/distribution/reference/blob/main/regexp.go, without forms that are never used.
ImageReference = Annotated[
    str,
    matching(
        r"([A-Za-z0-9_.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?",
        500,
    ),
    Allowed("an image reference, such as ghcr.io/org/image:1.0 or one that ends in @sha256:..."),
]
RPackage = Annotated[str, matching(r"[A-Za-z][A-Za-z0-9.]*[A-Za-z0-9]", 100), Allowed("the name of an R package")]
AptPackage = Annotated[str, matching(r"[a-z0-9][a-z0-9+.-]+", 100), Allowed("the name of a Debian package")]
Line = Annotated[str, matching(r"[^\x00-\x1f]+", 1000), Allowed("one line of text")]
Destination = Annotated[
    str,
    AfterValidator(destination),
    Allowed("an address or network and a port, such as 10.20.0.7:5432 or 10.20.0.0/16:443"),
]
Cidr = Annotated[str, AfterValidator(network), Allowed("an IPv4 network such as 203.0.113.0/24")]
KubeconfigPath = Annotated[
    str,
    matching(r"[^\x00-\x1f]+", 1000),
    Allowed("the path of a kubeconfig; for a kubeconfig itself there is kubeconfigText"),
]
Labels = Annotated[
    dict[str, str],
    BeforeValidator(label_map),
    Allowed(
        "name=value pairs with commas between, such as team=statistics,course=243: lower-case letters, digits, - and _"
    ),
]
Password = Annotated[
    SecretStr,
    AfterValidator(typed_password),
    Allowed(f"at least {MIN_PASSWORD_LENGTH} printable characters, none of them a blank at either end"),
]
RepositoryUrl = Annotated[
    SecretStr,
    AfterValidator(https_url),
    Allowed("a URL that begins with https://, such as https://USER:TOKEN@packages.example.org/cran"),
]
ClientSecret = Annotated[
    SecretStr,
    AfterValidator(one_line),
    Allowed("a secret of 8 to 1000 printable characters without a blank, as the provider of the login shows it"),
]
# oauth2-proxy looks below it for /.well-known/openid-configuration.
IssuerUrl = Annotated[
    str,
    matching(r"https://[^\s/?#@]+(/[^\s?#]*)?", 500),
    Allowed("the URL of a provider of logins that begins with https://, such as https://accounts.google.com"),
]
ClientId = Annotated[str, matching(r"[!-~]+", 500), Allowed("an ID without a blank")]
LoginUser = Annotated[
    str,
    matching(rf"\*|([A-Za-z0-9.!#$%&'+/=?^_{{|}}~-]{{1,64}})?@{DNS_LABEL}(\.{DNS_LABEL})+"),
    Allowed("an e-mail address, @DOMAIN for all of a domain, or * for everybody whom the provider lets in"),
]
KubeconfigText = Annotated[
    SecretStr,
    AfterValidator(whole_kubeconfig),
    Allowed("a kubeconfig's own text; for a path there is kubeconfig"),
]

Environment = Annotated[
    dict[str, str],
    BeforeValidator(environment_map),
    Allowed("a map of variables and their values, such as PGHOST: db.example.org"),
]
ChartValues = Annotated[dict[str, Any], Allowed("a map of values of the chart, as chart/README.md lists them")]

Items = Annotated[tuple[Item, ...], BeforeValidator(items), AfterValidator(without_repeats)]
"""A list, given as YAML or as text with commas or blanks between the items."""
