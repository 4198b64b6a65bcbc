"""Folders on this machine: downloads and builds in one cache folder, the data of a cluster in one state folder.

Both follow the XDG base directory specification, and an environment variable moves each.
"""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent

LOCAL_STACK = "dev"
"""The stack that `future-kubernetes up` creates on this machine."""


def local_cluster() -> str:
    """Name of the cluster on this machine. The tests set another name, to run beside the user's own cluster."""
    return os.environ.get("FUTURE_KUBERNETES_CLUSTER", "dev")


def cache_dir() -> Path:
    """Folder for downloads and builds, safe to delete: $FUTURE_KUBERNETES_CACHE, else ~/.cache/future-kubernetes."""
    return _base("FUTURE_KUBERNETES_CACHE", "XDG_CACHE_HOME", ".cache")


def state_dir(cluster: str) -> Path:
    """Folder of one cluster on this machine: its data, kubeconfig and logs; `down` deletes it.

    Below $FUTURE_KUBERNETES_STATE, else ~/.local/state/future-kubernetes.
    """
    return _base("FUTURE_KUBERNETES_STATE", "XDG_STATE_HOME", ".local/state") / cluster


def kubeconfig_path(cluster: str) -> Path:
    """The kubeconfig (mode 0600) that reaches the cluster's API server from this machine."""
    return state_dir(cluster) / "kubeconfig"


def _base(override: str, xdg: str, default: str) -> Path:
    if os.environ.get(override):
        return Path(os.environ[override])
    home = Path(os.environ[xdg]) if os.environ.get(xdg) else Path.home() / default
    return home / "future-kubernetes"
