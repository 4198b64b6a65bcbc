"""A Kubernetes object by its type, for the few that the program creates in addition to the chart's.

`pulumi_kubernetes.core.v1` is 4.5 MB of generated code, and `storage.v1` loads it too. Importing it took 0.2 s and 17
MiB for a Namespace and a Secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi


class KubernetesObject(pulumi.CustomResource):
    """An object registered exactly as the generated class of `pulumi_kubernetes` registers it.

    api_version, kind: such as `v1` and `Namespace`, or `storage.k8s.io/v1` and `StorageClass`. body: the object without
    these two, keys as in Kubernetes. secret: the keys of the body, and of what comes back, that are secrets. The
    provider is that of the parent.
    """

    def __init__(
        self,
        api_version: str,
        kind: str,
        name: str,
        body: Mapping[str, Any],
        opts: pulumi.ResourceOptions,
        secret: tuple[str, ...] = (),
    ) -> None:
        group = api_version if "/" in api_version else f"core/{api_version}"
        hidden = {key: pulumi.Output.secret(body[key]) for key in secret if key in body}
        super().__init__(
            f"kubernetes:{group}:{kind}",
            name,
            {"apiVersion": api_version, "kind": kind, **body, **hidden},
            pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(additional_secret_outputs=list(secret))),
        )
