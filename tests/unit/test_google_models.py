"""Google's own descriptions of its APIs, as google-api-python-client has them, against what the program declares.

Nothing here shares code with the program, except the address and the fields of the price list. No Google Cloud is
called: the descriptions are files of the package.
"""

from __future__ import annotations

import functools
import json
import re
import unittest.mock
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import googleapiclient
import pytest

from components.clouds.google import catalog, rest, streaming, versions
from tests.unit.cloud_mocks import ROOT
from tests.unit.google_cloud import (
    CATALOG,
    COMPUTE,
    CONFIG_PATH,
    CONTAINER,
    STREAMING_PATH,
    beside_prices,
    catalog_page,
    cluster,
    gke,
    kubernetes_engine,
    team,
)

pytestmark = pytest.mark.usefixtures("installed_tools")

VARIATIONS: Mapping[str, dict[str, Any]] = {
    "least": {},
    "most": {
        "maxWorkers": 40,
        "sharedGiB": 1024,
        "host": "r.example.org",
        "authorizedNetworks": "203.0.113.0/24",
        "monthlyBudget": 500,
        "budgetEmail": "team@example.org",
        "keepHome": True,
        "homeSnapshotDays": 14,
    },
    "spot": {"spot": True, "maxWorkers": 40, "zone": "us-west1-b", "machineType": "n4-standard-4"},
    "data": {"buckets": "gs://team-data,gs://results:rw"},
    "fallback": {"spot": "fallback", "kubernetesVersion": "1.35", "maintenanceWindow": "FR,SA,SU 22:30"},
    "narrow": {"vpcCidr": "192.168.128.0/18", "maxWorkers": 8},
    "given": {"network": "campus", "subnets": "nodes", "image": "ghcr.io/o/i@sha256:" + "b" * 64},
}

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


@pytest.mark.parametrize("variation", VARIATIONS)
def test_resources_are_of_the_form_that_google_describes(variation: str) -> None:
    done = gke(VARIATIONS[variation])
    checked = set()
    for resource in done.resources:
        if resource.type in MODELS:
            assert complaints(resource.type, resource.inputs) == [], resource.name
            checked.add(resource.type)
        else:
            assert not resource.type.startswith("gcp:") or resource.type in WITHOUT_MODEL, resource.type
    of_buckets = {"gcp:storage/bucketIAMMember:BucketIAMMember"}
    if variation == "most":
        assert checked == set(MODELS) - of_buckets
    assert (of_buckets <= checked) == (variation == "data")


@pytest.mark.parametrize(
    ("type_", "name", "wrong"),
    [
        ("nodePool:NodePool", "workers", {"autoscaling": {"locationPolicy": "CHEAPEST"}}),
        ("nodePool:NodePool", "workers", {"autoscaling": {"minimum": 1}}),
        ("nodePool:NodePool", "workers", {"nodeConfig": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
        ("nodePool:NodePool", "workers", {"nodeConfig": {"diskSizeGb": "50"}}),
        ("nodePool:NodePool", "workers", {"nodeConfig": {"spot": "yes"}}),
        ("container/cluster:Cluster", "", {"releaseChannel": {"channel": "STEADY"}}),
        ("container/cluster:Cluster", "", {"controlPlaneEndpointsConfig": {"ipEndpointsConfig": {"public": True}}}),
        ("container/cluster:Cluster", "", {"endpoint": "198.51.100.1"}),
    ],
)
def test_a_wrong_input_is_noticed(type_: str, name: str, wrong: dict[str, Any]) -> None:
    resource = team().one(type_, name)
    assert complaints(resource.type, resource.inputs) == []
    found = complaints(resource.type, wrong)
    assert len(found) == 1, found


def test_only_known_fields_are_on_their_way_out() -> None:
    found = set()
    for variation in VARIATIONS.values():
        for resource in gke(variation).resources:
            model = MODELS.get(resource.type)
            for path, _ in leaves(resource.inputs) if model else ():
                target = translated(path, model.names) if model else None
                if model and target:
                    found |= set(field(model, target)[1])
    assert found == set(ON_THEIR_WAY_OUT)


def test_services_on_the_page_exist() -> None:
    documents = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    names = {path.name.split(".")[0] for path in documents.glob("*.json")}
    page = re.sub(r"\\\n\s*", "", (ROOT / "docs" / "gke.md").read_text())
    asked = {
        name for line in re.findall(r"gcloud services enable ([^#\n]*)", page) for name in line.split() if "." in name
    }
    assert len(asked) >= 8
    # Three that the package has no description of.
    assert {name.split(".")[0] for name in asked} - names <= {"cloudquotas", "containerscanning", "containerfilesystem"}


@pytest.mark.parametrize(
    ("names", "schema", "asked", "answered"),
    [
        (
            ("clusters", "list"),
            "ListClustersResponse",
            versions.CLUSTER_FIELDS,
            {"clusters": [cluster("1.35.2-gke.1")]},
        ),
        (
            ("", "getServerConfig"),
            "ServerConfig",
            versions.OFFERED_FIELDS,
            kubernetes_engine()(f"https://{CONTAINER}/v1/projects/p/locations/us-west1{CONFIG_PATH}", "p", "t"),
        ),
    ],
)
def test_versions_are_asked_and_answered_as_google_describes(
    names: tuple[str, str], schema: str, asked: str, answered: dict[str, Any]
) -> None:
    document = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "container.v1.json"
    described = json.loads(document.read_text())
    found = described["resources"]["projects"]["resources"]["locations"]
    found = found["resources"][names[0]] if names[0] else found
    method = found["methods"][names[1]]
    assert method["response"]["$ref"] == schema
    assert method["httpMethod"] == "GET"
    url = f"{described['rootUrl']}v1"
    assert url == versions.ADDRESS
    model = Model("container.v1", schema, {})
    for path, value in leaves(answered):
        known, deprecated = field(model, path)
        assert known is not None, path
        assert not deprecated, path
        expected = {"string": str, "integer": int}[known["type"]] if "type" in known else object
        assert isinstance(value, expected)
        assert path.rsplit(".", 1)[-1].rstrip("[]") in re.split(r"[(),/]", asked) or "resourceLabels" in path


def test_state_of_an_api_is_read_as_google_describes() -> None:
    document = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "serviceusage.v1.json"
    described = json.loads(document.read_text())
    method = described["resources"]["services"]["methods"]["get"]
    assert f"{described['rootUrl']}v1" == streaming.ADDRESS
    name = STREAMING_PATH.removeprefix("/v1/")
    assert re.fullmatch(method["parameters"]["name"]["pattern"], name)
    known, _ = field(Model("serviceusage.v1", method["response"]["$ref"], {}), "state")
    assert known is not None
    assert {"ENABLED", "DISABLED"} <= set(known["enum"])


def test_price_list_is_asked_and_answered_as_google_describes() -> None:
    document = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "cloudbilling.v1.json"
    described = json.loads(document.read_text())
    method = described["resources"]["services"]["resources"]["skus"]["methods"]["list"]
    assert f"{described['rootUrl']}v1/services" == catalog.ADDRESS
    assert set(method["scopes"]) & {"https://www.googleapis.com/auth/cloud-platform"}, "the scope of the callers' token"
    asked: list[str] = []

    def answer(url: str, project: str, token: str) -> dict[str, Any]:
        asked.append(url)
        return catalog_page(url, project, token)

    with unittest.mock.patch.object(rest, "fetch", beside_prices(answer)):
        gke(VARIATIONS["most"], {"never-called": lambda _args: {}})
    assert len(asked) == 8, "two pages of each service"
    for url in asked:
        parts = urllib.parse.urlsplit(url)
        assert re.fullmatch(method["flatPath"].replace("{servicesId}", "[A-F0-9-]+"), parts.path.lstrip("/"))
        assert set(urllib.parse.parse_qs(parts.query)) <= {*method["parameters"], *described["parameters"]}
    model = Model("cloudbilling.v1", "ListSkusResponse", {})
    for path, value in leaves({"skus": CATALOG[COMPUTE], "nextPageToken": "next"}):
        assert list(field_complaints(model, path, value)) == [], path
    for path in (
        "nextPageToken",
        "skus[].description",
        "skus[].category.usageType",
        "skus[].serviceRegions",
        "skus[].pricingInfo[].pricingExpression.usageUnit",
        "skus[].pricingInfo[].pricingExpression.tieredRates",
    ):
        assert field(model, path)[0] is not None, path
        assert path.rsplit(".", 1)[-1] in catalog.FIELDS
