"""Reads one context out of kubeconfigs, as kubectl does, and makes it complete in itself.

Not by `kubectl config view --raw --flatten --minify`: it needs a file for the text of `kubeconfigText`, which is a
secret, and its errors name neither the contexts that there are nor the command that fixes it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
import yaml

from components.clouds.checks import problem
from components.clouds.kubeconfig import kubeconfig


class KubeconfigError(pulumi.RunError):
    """A kubeconfig, context or cluster that cannot be used."""


@dataclass(frozen=True)
class Access:
    """One context of a kubeconfig. text: a kubeconfig of its own, into which the files that it named are inlined.

    identity: stays the same as long as the cluster's address and certificate authority do.
    """

    context: str
    server: str
    text: str
    identity: str


def kubeconfig_files(setting: str | None) -> list[Path]:
    """Paths where kubectl would look: the setting, else $KUBECONFIG (a list of paths), else ~/.kube/config."""
    if setting:
        return [Path(setting).expanduser()]
    listed = [Path(part).expanduser() for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return listed or [Path.home() / ".kube" / "config"]


def read_access(files: Sequence[Path], context: str | None = None) -> Access:
    """One context out of the given kubeconfig files. The first file to name a thing wins, as in kubectl.

    Raises KubeconfigError where there is no file, no such context (naming those that there are), or a credential that
    the context needs is missing.
    """
    present = [path for path in files if path.is_file()]
    if not present:
        raise KubeconfigError(
            problem(
                f"there is no kubeconfig at {', '.join(map(str, files))}",
                "the path of a kubeconfig",
                "pulumi config set kubeconfig PATH, or get credentials for the cluster first",
            )
        )
    return merged_access([(load_yaml(path), path.parent) for path in present], ", ".join(map(str, present)), context)


def text_access(text: str, context: str | None = None) -> Access:
    """One context out of a kubeconfig's text, whose relative paths mean what they would in ~/.kube/config.

    Raises KubeconfigError as `read_access` does.
    """
    source = "kubeconfigText"
    return merged_access([(parse_yaml(text, source), Path.home() / ".kube")], source, context)


def merged_access(loaded: Sequence[tuple[Mapping[str, Any], Path]], source: str, context: str | None) -> Access:
    """One context out of kubeconfigs, each with the folder that its paths start from. source: their name in errors."""
    merged: dict[str, dict[str, Any]] = {"contexts": {}, "clusters": {}, "users": {}}
    current = None
    for content, folder in loaded:
        current = current or content.get("current-context")
        for kind, single in (("contexts", "context"), ("clusters", "cluster"), ("users", "user")):
            for entry in content.get(kind) or []:
                merged[kind].setdefault(entry.get("name"), inlined(entry.get(single) or {}, folder))
    name = context or current
    if name not in merged["contexts"]:
        known = sorted(merged["contexts"])
        given = f"context {name!r} is not in {source}" if name else f"{source} has no current context"
        fix = f"pulumi config set context {shlex.quote(known[0]) if known else 'NAME'}"
        raise KubeconfigError(problem(given, ", ".join(known) or "none: the kubeconfig has no context", fix))
    chosen = merged["contexts"][name]
    cluster, user = merged["clusters"].get(chosen.get("cluster")), merged["users"].get(chosen.get("user"), {})
    if not cluster or not cluster.get("server"):
        raise KubeconfigError(
            problem(
                f"context {name!r} in {source} names a cluster without an address: {chosen.get('cluster')!r}",
                "a context whose cluster has a server",
                f"kubectl config set-cluster {shlex.quote(str(chosen.get('cluster')))} --server https://ADDRESS",
            )
        )
    check_exec_plugin(user, source)
    server, authority = str(cluster["server"]), cluster.get("certificate-authority-data", "")
    identity = hashlib.sha256(f"{server}\n{authority}".encode()).hexdigest()[:16]
    return Access(str(name), server, kubeconfig(str(name), cluster, user, chosen), identity)


def load_yaml(path: Path) -> dict[str, Any]:
    """A kubeconfig file as a map."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise KubeconfigError(unreadable(str(path), type(error).__name__)) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """A kubeconfig's text as a map. No message repeats any of it: it may hold credentials."""
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KubeconfigError(unreadable(source, type(error).__name__)) from None
    if not isinstance(loaded, dict):
        raise KubeconfigError(unreadable(source, "no map"))
    return loaded


def unreadable(source: str, reason: str) -> str:
    """The message for a kubeconfig that cannot be read."""
    return problem(
        f"{source} cannot be read as a kubeconfig: {reason}",
        "YAML or JSON with a map of clusters, users and contexts",
        "see what kubectl config view makes of it, and correct it",
    )


def inlined(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`entry` with the content of certificate and key files in place of their paths, which are relative to `folder`."""
    complete = dict(entry)
    for key in ("certificate-authority", "client-certificate", "client-key"):
        if key in complete:
            path = folder / Path(complete.pop(key)).expanduser()
            try:
                complete.setdefault(f"{key}-data", base64.b64encode(path.read_bytes()).decode())
            except OSError as error:
                raise KubeconfigError(
                    problem(
                        f"the kubeconfig names {path} as its {key}: {error.strerror}",
                        "a file that can be read",
                        "get credentials for the cluster again, or correct the path in the kubeconfig",
                    )
                ) from None
    return complete


def check_exec_plugin(user: Mapping[str, Any], source: str) -> None:
    """Raises KubeconfigError where the program that fetches credentials is not installed."""
    plugin = user.get("exec") or {}
    command = plugin.get("command")
    if command and not shutil.which(command):
        raise KubeconfigError(
            problem(
                f"{source} gets credentials from {command!r}, which is not installed",
                "a program on PATH",
                plugin.get("installHint") or f"install {command} and have it on PATH",
            )
        )
