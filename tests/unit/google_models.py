"""Google's own descriptions of its APIs, and what of them each resource of the program is held against."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import googleapiclient

Names = Mapping[str, str | None]


@dataclass(frozen=True)
class Model:
    """The schema of a resource in one of Google's APIs.

    names: path in the provider's inputs to path in the schema, where they differ. None: no field of the resource, such
    as a part of its address, or an option of the provider.
    """

    api: str
    schema: str
    names: Names


READ_ONLY_PORT = "insecureKubeletReadonlyPortEnabled"

MODELS = {
    "gcp:container/cluster:Cluster": Model(
        "container.v1",
        "Cluster",
        {
            "location": None,
            "minMasterVersion": "initialClusterVersion",
            "removeDefaultNodePool": None,
            "deletionProtection": None,
            "networkingMode": None,
            "nodeLocations": "locations",
            "clusterAutoscaling.enabled": "autoscaling.enableNodeAutoprovisioning",
            "clusterAutoscaling.autoscalingProfile": "autoscaling.autoscalingProfile",
            "maintenancePolicy.recurringWindow.startTime": "maintenancePolicy.window.recurringWindow.window.startTime",
            "maintenancePolicy.recurringWindow.endTime": "maintenancePolicy.window.recurringWindow.window.endTime",
            "maintenancePolicy.recurringWindow.recurrence": "maintenancePolicy.window.recurringWindow.recurrence",
            "loggingConfig.enableComponents": "loggingConfig.componentConfig.enableComponents",
            "monitoringConfig.enableComponents": "monitoringConfig.componentConfig.enableComponents",
            "monitoringConfig.managedPrometheus": "monitoringConfig.managedPrometheusConfig",
            "enableShieldedNodes": "shieldedNodes.enabled",
            "enableLegacyAbac": "legacyAbac.enabled",
            "datapathProvider": "networkConfig.datapathProvider",
            # The provider sends the successors of the fields that these are named after
            # (resource_container_cluster.go: expandControlPlaneEndpointsConfig, expandDefaultEnablePrivateNodes).
            "masterAuthorizedNetworksConfig": "controlPlaneEndpointsConfig.ipEndpointsConfig.authorizedNetworksConfig",
            "privateClusterConfig.enablePrivateNodes": "networkConfig.defaultEnablePrivateNodes",
            f"nodePoolDefaults.nodeConfigDefaults.{READ_ONLY_PORT}": (
                f"nodePoolDefaults.nodeConfigDefaults.nodeKubeletConfig.{READ_ONLY_PORT}"
            ),
        },
    ),
    "gcp:container/nodePool:NodePool": Model(
        "container.v1",
        "NodePool",
        {
            "cluster": None,
            "ignoreNodeCountChanges": None,
            "nodeCount": "initialNodeCount",
            "nodeLocations": "locations",
            "nodeConfig": "config",
        },
    ),
    "gcp:storage/bucketIAMMember:BucketIAMMember": Model(
        "storage.v1", "Policy", {"bucket": None, "role": "bindings[].role", "member": "bindings[].members[]"}
    ),
    "gcp:compute/network:Network": Model("compute.v1", "Network", {"routingMode": "routingConfig.routingMode"}),
    "gcp:compute/subnetwork:Subnetwork": Model("compute.v1", "Subnetwork", {"region": None}),
    "gcp:compute/router:Router": Model("compute.v1", "Router", {"region": None}),
    "gcp:compute/routerNat:RouterNat": Model(
        "compute.v1",
        "RouterNat",
        {
            "region": None,
            "router": None,
            "subnetworks[].sourceIpRangesToNats": "subnetworks[].sourceIpRangesToNat",
        },
    ),
    "gcp:compute/firewall:Firewall": Model(
        "compute.v1",
        "Firewall",
        {"allows[].protocol": "allowed[].IPProtocol", "allows[].ports": "allowed[].ports"},
    ),
    "gcp:compute/address:Address": Model("compute.v1", "Address", {"region": None}),
    # Its options are of the provider: it asks for a snapshot by itself.
    "gcp:compute/disk:Disk": Model(
        "compute.v1",
        "Disk",
        {"createSnapshotBeforeDestroy": None, "zone": None, "size": "sizeGb", "snapshot": "sourceSnapshot"},
    ),
    "gcp:compute/resourcePolicy:ResourcePolicy": Model(
        "compute.v1",
        "ResourcePolicy",
        {"region": None},
    ),
    "gcp:compute/diskResourcePolicyAttachment:DiskResourcePolicyAttachment": Model(
        "compute.v1",
        "DisksAddResourcePoliciesRequest",
        {"name": "resourcePolicies[]", "disk": None, "zone": None},
    ),
    "gcp:filestore/instance:Instance": Model(
        "file.v1",
        "Instance",
        {"location": None, "fileShares": "fileShares[]"},
    ),
    "gcp:artifactregistry/repository:Repository": Model(
        "artifactregistry.v1",
        "Repository",
        {"location": None, "repositoryId": None, "cleanupPolicies[]": "cleanupPolicies.any"},
    ),
    "gcp:billing/budget:Budget": Model(
        "billingbudgets.v1",
        "GoogleCloudBillingBudgetsV1Budget",
        {
            "billingAccount": None,
            "allUpdatesRule": "notificationsRule",
            # The provider sends each value as a list of any type, which these checks do not know.
            "budgetFilter.labels": None,
        },
    ),
    "gcp:monitoring/notificationChannel:NotificationChannel": Model(
        "monitoring.v3", "NotificationChannel", {"project": None}
    ),
    "gcp:serviceaccount/account:Account": Model(
        "iam.v1", "CreateServiceAccountRequest", {"displayName": "serviceAccount.displayName"}
    ),
}

WITHOUT_MODEL = {
    "gcp:projects/iAMMember:IAMMember",
    "gcp:artifactregistry/repositoryIamMember:RepositoryIamMember",
    "gcp:artifactregistry/repository:Repository",
}

ON_THEIR_WAY_OUT = {
    "Cluster.initialNodeCount": "the default pool, which goes at once; the provider cannot leave it out",
    "Cluster.nodeConfig": "its machine, disk and account",
}
"""Fields that Google calls deprecated and the program sets, with the reason."""


@functools.cache
def schemas(api: str) -> dict[str, Any]:
    document = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / f"{api}.json"
    found: dict[str, Any] = json.loads(document.read_text())["schemas"]
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The paths of all values within a value, such as `cidrBlocks[].cidrBlock`."""
    if isinstance(value, dict):
        for key, entry in value.items():
            # A label may have dots; its path is that of any key.
            yield from leaves(entry, f"{path}.{key}".lstrip(".") if re.fullmatch(r"\w+", key) else f"{path}.any")
    elif isinstance(value, list):
        for entry in value:
            yield from leaves(entry, f"{path}[]")
    else:
        yield path, value


def translated(path: str, names: Names) -> str | None:
    """The path in the API; None where the API has no such field."""
    for old in sorted(names, key=len, reverse=True):
        if path == old or path.startswith((f"{old}.", f"{old}[")):
            new = names[old]
            return None if new is None else new + path[len(old) :]
    return path


def complaints(type_: str, inputs: Mapping[str, Any]) -> list[str]:
    """Values that are not of the form that Google describes."""
    model = MODELS[type_]
    found = []
    for path, value in leaves(inputs):
        target = translated(path, model.names)
        if target is not None:
            found += [f"{target}: {text}" for text in field_complaints(model, target, value)]
    return found


def field(model: Model, path: str) -> tuple[dict[str, Any] | None, list[str]]:
    """The description of a field, and the deprecated fields on the way to it. None for an unknown field."""
    known = schemas(model.api)
    found: dict[str, Any] | None = {"$ref": model.schema}
    deprecated, walked = [], model.schema
    for part in re.findall(r"\[\]|\w+", path):
        found = known[found["$ref"]] if found and "$ref" in found else found
        if found is None:
            break
        walked += part if part == "[]" else f".{part}"
        found = (
            found.get("items")
            if part == "[]"
            else found.get("properties", {}).get(part, found.get("additionalProperties"))
        )
        if found and (found.get("deprecated") or found.get("description", "").lower().startswith("deprecated")):
            deprecated.append(walked)
    return found, deprecated


def field_complaints(model: Model, path: str, value: Any) -> Iterator[str]:
    found, _ = field(model, path)
    if found is None or "$ref" in found or found.get("type") in ("object", "array"):
        yield "unknown, or not a single value"
        return
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str, int),  # numbers of 64 bits are text
        "integer": (int,),
        "boolean": (bool,),
        "number": (int, float),
    }
    given = {"TRUE": True, "FALSE": False}.get(value, value) if found["type"] == "boolean" else value
    if not isinstance(given, kinds[found["type"]]) or (isinstance(given, bool) and found["type"] != "boolean"):
        yield f"{value!r} is no {found['type']}"
    if "enum" in found and value not in found["enum"]:
        yield f"{value!r} is none of {found['enum']}"
    if re.search(r"^\[?output only", found.get("description", ""), re.IGNORECASE):
        yield "only read"
