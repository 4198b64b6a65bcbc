"""Google's own descriptions of its APIs, as google-api-python-client has them, against what the program declares.

Nothing here shares code with the program, except the address and the fields of the price list. No Google Cloud is
called: the descriptions are files of the package.
"""

from __future__ import annotations

import json
import re
import unittest.mock
import urllib.parse
from collections.abc import Mapping
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
from tests.unit.google_models import (
    MODELS,
    ON_THEIR_WAY_OUT,
    WITHOUT_MODEL,
    Model,
    complaints,
    field,
    field_complaints,
    leaves,
    translated,
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
    "types": {"spot": "fallback", "otherMachineTypes": "n4-standard-4,c3-standard-4", "maxWorkers": 40},
    "narrow": {"vpcCidr": "192.168.128.0/18", "maxWorkers": 8},
    "given": {"network": "campus", "subnets": "nodes", "image": "ghcr.io/o/i@sha256:" + "b" * 64},
}


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
