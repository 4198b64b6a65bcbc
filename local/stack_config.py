"""Config of stack dev as Pulumi passes it to the program: defaults, Pulumi.dev.yaml, then the options of `up`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

import yaml

from common.errors import UserError
from common.paths import REPO
from components.clouds import MODELS
from components.settings.loading import parse
from components.settings.model import Settings
from local.node.places import REGISTRY

PROJECT = "future-kubernetes"
PASSWORD_VARIABLE = "FUTURE_KUBERNETES_PASSWORD"  # noqa: S105 - the name of a variable
SECRET_KEYS = frozenset({"password"})


def read_config(stack: str, overrides: Mapping[str, str]) -> dict[str, str]:
    """Return the stack's config by key, as text. Later sources win: Pulumi.yaml, Pulumi.STACK.yaml, `overrides`.

    Raises UserError for a file that is missing, and for a password that other users could read.
    """
    project = yaml.safe_load((REPO / "Pulumi.yaml").read_text())
    merged: dict[str, Any] = {key: entry.get("default") for key, entry in (project.get("config") or {}).items()}
    path = REPO / f"Pulumi.{stack}.yaml"
    if not path.exists():
        raise UserError(f"there is no stack {stack!r}: {path.name} does not exist\n    fix: pulumi stack init {stack}")
    merged |= _short((yaml.safe_load(path.read_text()) or {}).get("config") or {}) | _short(overrides)
    if "password" in overrides:
        raise UserError(
            "a password in an argument can be read by every user of this machine\n"
            f"    allowed: the environment variable {PASSWORD_VARIABLE}\n"
            f"    fix:     read -rs {PASSWORD_VARIABLE} && export {PASSWORD_VARIABLE}"
        )
    if merged.get("password") and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"{path.name} holds a password and other users can read it\n    fix: chmod 600 {path.name}")
    if os.environ.get(PASSWORD_VARIABLE):
        merged["password"] = os.environ[PASSWORD_VARIABLE]
    return {key: _as_text(value) for key, value in merged.items() if value not in (None, "")}


IMAGE_TO_BE_BUILT = f"{REGISTRY}/future-kubernetes"


def read_settings(stack: str, overrides: Mapping[str, str]) -> Settings:
    """Return the settings as the program will read them. Raises SettingsError, with all errors at once, or UserError.

    The image is a placeholder where none is given: its digest is known only once it is built.
    """
    config = read_config(stack, {"image": IMAGE_TO_BE_BUILT, **overrides})
    return parse(config, MODELS, stack=stack, secrets=SECRET_KEYS)


def _short(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{PROJECT}:"): value for key, value in config.items()}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value)
