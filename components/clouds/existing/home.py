"""The home's claim on an existing cluster: what Kubernetes would refuse is refused before anything is changed."""

from __future__ import annotations

import json
from typing import Any

import pulumi

from components.clouds.base import home_claim
from components.clouds.checks import problem, say_unchecked
from components.clouds.existing.access import Access, KubeconfigError
from components.clouds.existing.nodes import asked, quantity
from components.settings.model import Settings

GIB = 2**30


def check_home(access: Access, settings: Settings) -> None:
    """Raises KubeconfigError where the home's claim would have to shrink, or its storage class cannot grow it.

    Where the caller may not see either, the check says so.
    """
    claim = f"{home_claim(settings)} in namespace {settings.namespace}"
    found = read(
        access, f"whether claim {claim} can have {settings.home_gib} GiB", "pvc", home_claim(settings), settings
    )
    if found is None:
        return
    spec = found["spec"]
    size = quantity(spec["resources"]["requests"]["storage"])
    if not settings.home_gib:
        pulumi.log.warn(
            f"homeGiB is 0: the pods no longer use claim {claim}, and without keepHome its files are deleted"
        )
        return
    if settings.home_gib * GIB < size:
        raise KubeconfigError(
            problem(
                f"homeGiB is {settings.home_gib}, and claim {claim} has {size / GIB:g} GiB",
                f"at least {-(-size // GIB):g}: a volume grows and never shrinks",
                f"pulumi config set homeGiB {-(-size // GIB):g}",
            )
        )
    name = spec.get("storageClassName")
    if settings.home_gib * GIB == size or not name:
        return
    storage_class = read(access, f"whether storage class {name} can expand volumes", "storageclass", name, settings)
    if storage_class is not None and not storage_class.get("allowVolumeExpansion"):
        raise KubeconfigError(
            problem(
                f"homeGiB is {settings.home_gib}, and claim {claim} has {size / GIB:g} GiB of storage class {name}, "
                "which expands no volume",
                f"{size / GIB:g}, or a storage class with allowVolumeExpansion: true",
                f"pulumi config set homeGiB {size / GIB:g}; for a larger home, copy the files out (pulumi stack output "
                "copyFrom), then pulumi destroy and pulumi up",
            )
        )


def read(access: Access, unchecked: str, kind: str, name: str, settings: Settings) -> dict[str, Any] | None:
    """An object of the cluster; None where there is none. Where the cluster refuses, says what is not checked."""
    answer = asked(access, "get", kind, name, "--namespace", settings.namespace, "--output", "json")
    if answer is None:
        return None
    if answer.returncode == 0:
        return dict(json.loads(answer.stdout))
    if "(NotFound)" not in answer.stderr:
        say_unchecked(unchecked, RuntimeError(answer.stderr or f"kubectl exited with {answer.returncode}"))
    return None
