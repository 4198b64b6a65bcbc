"""The clouds that a stack can run on. A new one is a folder here and a line in `CLOUDS`.

A cloud's SDK is imported only with its component, so that the others need not be installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.clouds.aws.settings import EksSettings
from components.clouds.existing.settings import KubeconfigSettings, LocalSettings
from components.clouds.google.settings import GkeSettings
from components.settings.model import Settings

if TYPE_CHECKING:
    from components.clouds.base import Cluster


@dataclass(frozen=True)
class Cloud:
    """One value of the setting `cloud`: the model of its settings, and its component as `module:Class`."""

    settings: type[Settings]
    component: str

    def create(self, settings: Settings) -> Cluster:
        """The cluster that the settings ask for. Raises RunError, before anything is made, for one that cannot be."""
        module, _, name = self.component.partition(":")
        made: Cluster = getattr(importlib.import_module(module), name)(settings.name, settings)
        return made


CLOUDS: Mapping[str, Cloud] = {
    "local": Cloud(LocalSettings, "components.clouds.existing.local:LocalCluster"),
    "kubeconfig": Cloud(KubeconfigSettings, "components.clouds.existing.cluster:KubeconfigCluster"),
    "gke": Cloud(GkeSettings, "components.clouds.google.cluster:GkeCluster"),
    "eks": Cloud(EksSettings, "components.clouds.aws.cluster:EksCluster"),
}

MODELS: Mapping[str, type[Settings]] = {name: cloud.settings for name, cloud in CLOUDS.items()}
"""The model of each cloud's settings, by the value of `cloud`."""
