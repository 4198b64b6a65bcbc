"""Builds the text of a kubeconfig. Nothing here reads one: components/clouds/existing/access.py does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def kubeconfig(name: str, cluster: Mapping[str, Any], user: Mapping[str, Any], context: Mapping[str, Any] = {}) -> str:
    """A kubeconfig with one context, as JSON, which is YAML too. The same arguments give the same text.

    name: of the context, the cluster and the user. cluster: such as `server` and `certificate-authority-data`.
    user: the credentials, or the `exec` plugin that fetches them. context: further fields, such as `namespace`.
    """
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {**context, "cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": dict(cluster)}],
        "users": [{"name": name, "user": dict(user)}],
    }
    return json.dumps(config, sort_keys=True)


def exec_plugin(command: str, *args: str, **options: Any) -> dict[str, Any]:
    """A kubeconfig's user without credentials of its own: `command` fetches them at each use."""
    plugin = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": command, **options}
    return {"exec": {**plugin, "args": list(args)} if args else plugin}
