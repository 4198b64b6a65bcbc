"""The least settings of each kind of cloud, and how a test parses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.clouds import MODELS
from components.settings import loading
from components.settings.errors import SettingsError
from components.settings.loading import known_keys

ROOT = Path(__file__).resolve().parents[2]
KEYS = known_keys(MODELS)
LOCAL = {"cloud": "local", "image": "127.0.0.1:5000/r:1"}
GKE = {"cloud": "gke", "project": "my-project", "region": "us-west1"}
EKS = {"cloud": "eks", "region": "us-west-2", "authorizedNetworks": "203.0.113.0/24"}


def parse(values: dict[str, Any], stack: str = "dev", secrets: frozenset[str] = frozenset()) -> Any:
    return loading.parse(values, MODELS, stack=stack, secrets=secrets)


def problems(values: dict[str, Any], stack: str = "dev", secrets: frozenset[str] = frozenset()) -> dict[str, str]:
    """The message of each problem by its key."""
    with pytest.raises(SettingsError) as caught:
        parse(values, stack=stack, secrets=secrets)
    return {problem.key: str(problem) for problem in caught.value.problems}
