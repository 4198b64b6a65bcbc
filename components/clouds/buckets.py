"""The setting `buckets`: object storage that the pods of a stack may read or write, the same on both clouds.

Pure: nothing here imports a cloud's SDK.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import AfterValidator

from components.settings.errors import Problem
from components.settings.fields import setting

SCHEMES = {"gs": "gke", "s3": "eks"}
"""The cloud of each scheme."""

FORM = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<name>[^/:]*)(?P<path>/[^:]*)?(?P<rights>:.*)?")


@dataclass(frozen=True)
class Bucket:
    """A bucket, and whether pods may write to it."""

    name: str
    writable: bool


def reference(scheme: str, name: str) -> AfterValidator:
    """The check of one item: a bucket of this scheme, for reading, or with `:rw` for writing too.

    name: regular expression of a bucket's name.
    """

    def check(value: str) -> str:
        parts = FORM.fullmatch(value)
        if not parts:
            raise ValueError(f"it does not begin with {scheme}://")
        given = parts["scheme"]
        if given != scheme:
            owner = SCHEMES.get(given)
            raise ValueError(f"{given}:// is of cloud {owner}" if owner else f"there is no {given}:// here")
        if parts["path"] not in (None, "/"):
            raise ValueError(f"a whole bucket, without {parts['path']}")
        if parts["rights"] not in (None, ":rw"):
            raise ValueError(f"{parts['rights']} is no right: nothing is to read, :rw is to read and write")
        if not re.fullmatch(name, parts["name"]):
            raise ValueError(f"{parts['name']!r} is no bucket's name")
        return f"{scheme}://{parts['name']}{parts['rights'] or ''}"

    return AfterValidator(check)


def buckets_setting(scheme: str) -> Any:
    """The setting `buckets` with a cloud's scheme."""
    return setting(
        (),
        "Buckets of the same project or account that scheduler and workers may read, or with `:rw` read and write, "
        "without a key",
        default_words="none",
        example=f"{scheme}://team-data,{scheme}://results:rw",
    )


def parsed(references: Sequence[str]) -> tuple[Bucket, ...]:
    """The buckets of checked references, in their order."""
    parts = [each.split("://", 1)[1] for each in references]
    return tuple(Bucket(each.removesuffix(":rw"), each.endswith(":rw")) for each in parts)


def twice(references: Sequence[str]) -> Iterator[Problem]:
    """The problem of a bucket that is listed to be read and to be written."""
    names = [each.name for each in parsed(references)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        # Which right is meant is not known; the fix keeps the wider one.
        kept = [each for each in references if each.endswith(":rw") or parsed([each])[0].name not in repeated]
        yield Problem(
            "buckets",
            f"a list that has {', '.join(repeated)} twice, with different rights",
            "each bucket once; :rw is to read and write",
            f"pulumi config set buckets {','.join(kept)}",
        )
