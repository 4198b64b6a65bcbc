"""The hourly cost on GKE: Google's price list asked with the caller's token, and nothing guessed."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import Message
from http import HTTPStatus
from typing import Any

import pytest

from components.clouds.allocatable import Machine
from components.clouds.google import catalog, pricing, rest
from components.clouds.google.catalog import Query
from components.clouds.google.rest import RestError
from tests.unit.cloud_mocks import unchecked
from tests.unit.google_cloud import CATALOG, COMPUTE, beside_prices, gke, sku

pytestmark = pytest.mark.usefixtures("installed_tools")

REAL_FETCH = rest.fetch
DISK = 0.073 / 730


def cost(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = gke(config).outputs["hourlyCost"][0]
    return found


def test_cost_has_each_part_now_when_idle_and_at_most() -> None:
    found = cost({"workers": 10, "maxWorkers": 40, "homeGiB": 100})
    node = 4 * 0.02 + 16 * 0.002
    system = 2 * 0.02 + 8 * 0.002
    boot = 50 * DISK
    assert found["parts"] == {
        "worker nodes": f"${3 * node:.3f} now, $0.000 idle, ${10 * node:.3f} at most",
        "system nodes": f"${system:.3f} now, ${system:.3f} idle, ${3 * system:.3f} at most",
        "control plane": "$0.100",
        "worker disks": f"${3 * boot:.3f} now, $0.000 idle, ${10 * boot:.3f} at most",
        "other disks": f"${(50 + 100) * DISK:.3f} now, ${150 * DISK:.3f} idle, ${250 * DISK:.3f} at most",
        "NAT": "$0.004 now, $0.001 idle, $0.013 at most",
        "NAT address": "$0.005",
    }
    now = 3 * node + system + 0.1 + 3 * boot + 150 * DISK + 0.004 + 0.005
    rest = system + 0.1 + 150 * DISK + 0.001 + 0.005
    maximum = 10 * node + 3 * system + 0.1 + 10 * boot + 250 * DISK + 0.013 + 0.005
    assert (found["now"], found["idle"], found["max"]) == (f"${now:.2f}", f"${rest:.2f}", f"${maximum:.2f}")


def test_worker_node_adds_what_lies_between_now_and_idle() -> None:
    config = {"workers": 10, "maxWorkers": 40}
    done = gke(config)
    found = done.outputs["hourlyCost"][0]
    node = 4 * 0.02 + 16 * 0.002 + 50 * DISK + 0.001
    assert found["workerNode"] == f"${node:.3f}"
    assert abs(float(found["idle"][1:]) + 3 * node - float(found["now"][1:])) < 0.02
    shown = done.one("helm.sh/v3:Release").inputs["values"]["hourlyCost"]
    assert shown == {name: found[name] for name in ("idle", "max", "workerNode")}
    assert cost({"workers": 10})["workerNode"] == "$0.000", "nodes stay where no autoscaler removes them"
    assert cost({**config, "machineType": "m1-ultramem-40"})["workerNode"] == "unknown"


def test_maximum_cost_has_the_on_demand_price_of_a_fallback() -> None:
    spot, on_demand = 4 * 0.005 + 16 * 0.0005, 4 * 0.02 + 16 * 0.002
    only = cost({"workers": 4, "maxWorkers": 8, "spot": True})["parts"]["worker nodes"]
    assert only == f"${spot:.3f} now, $0.000 idle, ${2 * spot:.3f} at most"
    both = cost({"workers": 4, "maxWorkers": 8, "spot": "fallback"})["parts"]["worker nodes"]
    assert both == f"${spot:.3f} now, $0.000 idle, ${2 * on_demand:.3f} at most"


def test_cost_of_several_types_names_the_dearest_at_most() -> None:
    types = {"workers": 4, "maxWorkers": 8, "spot": True, "otherMachineTypes": "n4-standard-4"}
    spot = 4 * 0.005 + 16 * 0.0005
    unpriced = cost(types)
    name = "worker nodes (now as e2-standard-4, at most as the dearest type)"
    assert unpriced["parts"][name] == f"${spot:.3f} now, $0.000 idle, unknown at most", "N4 has no spot price here"
    assert unpriced["max"].endswith(f"(unknown: {name})")
    dearer = [
        sku("Spot Preemptible N4 Instance Core running in Oregon", 0.006, usage="Preemptible"),
        sku("Spot Preemptible N4 Instance Ram running in Oregon", 0.0006, "GiBy.h", usage="Preemptible"),
    ]
    CATALOG[COMPUTE] += dearer
    try:
        both = gke(types, {"never-called": lambda _args: {}}).outputs["hourlyCost"][0]["parts"]
        fallback = gke({**types, "spot": "fallback"}, {"never-called": lambda _args: {}}).outputs["hourlyCost"][0]
    finally:
        del CATALOG[COMPUTE][-2:]
    most = 2 * (4 * 0.006 + 16 * 0.0006)
    assert both["worker nodes (now as e2-standard-4, at most as n4-standard-4)"] == (
        f"${spot:.3f} now, $0.000 idle, ${most:.3f} at most"
    )
    assert both["worker disks"] == f"${50 * DISK:.3f} now, $0.000 idle, ${100 * DISK:.3f} at most"
    on_demand = 2 * (4 * 0.02 + 16 * 0.002)
    assert fallback["parts"]["worker nodes (now as e2-standard-4, at most as e2-standard-4 on demand)"] == (
        f"${spot:.3f} now, $0.000 idle, ${on_demand:.3f} at most"
    )


def test_cost_follows_zone_network_host_and_shared_files() -> None:
    assert cost({"zone": "us-west1-b"})["parts"]["control plane"] == "$0.090", "the fee of a zonal cluster"
    given = cost({"network": "campus", "subnets": "nodes"})["parts"]
    assert not {"NAT", "NAT address"} & set(given), "its way out is somebody else's"
    whole = cost({"host": "r.example.org", "sharedGiB": 1024})["parts"]
    assert whole["load balancer"] == "$0.025"
    assert whole["shared files"] == f"${1024 * 0.146 / 730:.3f}"
    assert "home snapshots" not in whole
    for kept in ({"keepHome": True}, {"homeSnapshotDays": 14}):
        assert cost(kept)["parts"]["home snapshots"].startswith("by use: ")


def test_hyperdisk_has_a_price_of_its_own() -> None:
    assert cost({"machineType": "n4-standard-4", "workers": 4})["parts"]["worker disks"] == f"${50 * DISK / 2:.3f}"


def test_disks_of_several_types_count_the_dearest_at_most() -> None:
    types = {"workers": 4, "maxWorkers": 8, "spot": True, "otherMachineTypes": "e2-standard-4"}
    disks = cost({**types, "machineType": "n4-standard-4"})["parts"]["worker disks"]
    assert disks == f"${50 * DISK / 2:.3f} now, $0.000 idle, ${100 * DISK:.3f} at most"


def test_nat_is_billed_for_32_machines_at_most() -> None:
    assert cost({"maxWorkers": 400})["parts"]["NAT"].endswith("$0.032 at most")


def test_machine_type_without_sku_is_unknown_and_named_beside_sum() -> None:
    found = cost({"machineType": "m1-ultramem-40", "workers": 40})
    assert found["parts"]["worker nodes"] == "unknown"
    assert found["now"].endswith("(unknown: worker nodes)")
    assert found["now"].startswith("at least $0.")


@pytest.mark.parametrize("reason", ["403 Cloud Billing API has not been used in project 1", "timed out"])
def test_refused_price_list_makes_cost_unknown_and_is_said_once(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def refuse(*_: str) -> dict[str, Any]:
        raise RestError(reason)

    monkeypatch.setattr(rest, "fetch", beside_prices(refuse))
    done = gke({}, {"never-called": lambda _args: {}})
    assert done.outputs["hourlyCost"][0]["now"] == "unknown"
    assert unchecked(done).count("prices, so hourlyCost is unknown") == 1
    assert reason in unchecked(done)
    assert "gcloud services enable cloudbilling.googleapis.com" in unchecked(done)
    assert done.all("nodePool:NodePool"), "a price is no reason to stop"


def test_price_list_is_asked_with_the_callers_token_and_project(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def answer(url: str, project: str, token: str) -> dict[str, Any]:
        asked.append((url, project, token))
        return {}

    monkeypatch.setattr(rest, "fetch", beside_prices(answer))
    gke({"host": "r.example.org", "sharedGiB": 1024}, {"never-called": lambda _args: {}})
    assert {(project, token) for _, project, token in asked} == {("my-project", "short-lived-token")}
    services = [url.split("/")[5] for url, _, _ in asked]
    assert sorted(services) == sorted(CATALOG), "each service once"


def test_token_is_in_no_output_and_in_no_message() -> None:
    done = gke({"workers": 10})
    assert "short-lived-token" not in json.dumps(done.outputs["hourlyCost"])
    assert "short-lived-token" not in json.dumps(done.said)


CORE = Query(COMPUTE, "E2 Instance Core running in ", "h")


def price_of(listed: list[dict[str, Any]], query: Query, monkeypatch: pytest.MonkeyPatch) -> float | None:
    monkeypatch.setattr(rest, "fetch", lambda *_: {"skus": listed})
    return catalog.prices([query], "us-west1", "p", "t")[query]


def test_only_a_price_of_right_place_use_and_unit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    right = sku("E2 Instance Core running in Americas", 0.02)
    wrong = [
        sku("E2 Instance Core running in Belgium", 9, regions=("europe-west1",)),
        sku("E2 Instance Core running in Americas", 9, usage="Commit1Yr"),
        sku("E2 Instance Core running in Americas", 9, "GiBy.h"),
        sku("Spot E2 Instance Core running in Americas", 9),
    ]
    assert price_of([right, *wrong], CORE, monkeypatch) == 0.02
    assert price_of(wrong, CORE, monkeypatch) is None
    assert price_of([right, right], CORE, monkeypatch) == 0.02, "one price, in two SKUs"
    assert price_of([right, sku("E2 Instance Core running in Oregon", 0.03)], CORE, monkeypatch) is None, "which?"
    assert price_of([{**right, "pricingInfo": []}], CORE, monkeypatch) is None


def test_highest_tier_counts_and_the_present_price(monkeypatch: pytest.MonkeyPatch) -> None:
    tiered = sku("E2 Instance Core running in Americas", 0.02)
    old = sku("E2 Instance Core running in Americas", 7)["pricingInfo"]
    rates = tiered["pricingInfo"][0]["pricingExpression"]["tieredRates"]
    rates[:] = [{"startUsageAmount": 0, "unitPrice": {}}, {"startUsageAmount": 9, "unitPrice": {"units": "2"}}]
    tiered["pricingInfo"] = [*old, *tiered["pricingInfo"]]
    assert price_of([tiered], CORE, monkeypatch) == 2


@pytest.mark.parametrize("name", ["n2-custom-4-8192", "c3-standard-4-lssd", "m1-ultramem-40", "f1-micro"])
def test_machine_with_further_parts_of_its_bill_is_unknown(name: str) -> None:
    assert pricing.machine_queries(Machine(name, 4, 8192)) == ()


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("n1-standard-4", "N1 Predefined Instance Core running in Americas"),
        ("n2-standard-4", "N2 Instance Core running in Americas"),
        ("n2d-standard-4", "N2D AMD Instance Core running in Americas"),
        ("c2-standard-4", "Compute optimized Core running in Americas"),
        ("t2d-standard-4", "T2D AMD Instance Core running in Americas"),
        ("c4-standard-4", "C4 Instance Core running in Oregon"),
    ],
)
def test_core_of_each_family_is_found_by_its_description(name: str, description: str) -> None:
    core, _ = pricing.machine_queries(Machine(name, 4, 16384))
    assert core.matches(sku(description, 1), "us-west1")
    others = [f"{word} {description}" for word in ("Spot Preemptible", "Reserved")]
    others.append(description.replace("Core", "Custom Core"))
    assert not any(core.matches(sku(other, 1), "us-west1") for other in others)
    spot, _ = pricing.machine_queries(Machine(name, 4, 16384), spot=True)
    assert spot.matches(sku(f"Spot Preemptible {description}", 1, usage="Preemptible"), "us-west1")


def test_shared_core_machine_is_billed_for_its_share() -> None:
    queries = pricing.machine_queries(Machine("e2-medium", 2, 4096))
    prices = dict(zip(queries, (0.02, 0.002), strict=True))
    assert pricing.machine_price(Machine("e2-medium", 2, 4096, shared_core=True), prices) == 0.02 + 4 * 0.002
    assert pricing.machine_price(Machine("e2-huge", 2, 4096, shared_core=True), prices) is None


def test_endless_price_list_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[int] = iter(range(0, 10_000, 50))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(rest, "fetch", lambda *_: {"skus": [], "nextPageToken": "again"})
    with pytest.raises(RestError, match="no whole answer within 120 s"):
        catalog.prices([CORE], "us-west1", "p", "t")


class Answered(io.BytesIO):
    """An answer of the API."""

    headers: Message


def answered(body: bytes, encoding: str = "") -> Answered:
    answer = Answered(body)
    answer.headers = Message()
    answer.headers["Content-Encoding"] = encoding
    return answer


class LostBody(io.BytesIO):
    """A body that does not come."""

    def read(self, amount: int | None = -1) -> bytes:
        raise TimeoutError(f"{amount} bytes timed out")


def refusal(status: int, body: io.BytesIO) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("u", status, HTTPStatus(status).phrase, Message(), body)


def test_request_names_token_project_and_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[urllib.request.Request] = []

    def answer(request: urllib.request.Request, timeout: float) -> Answered:
        asked.append(request)
        return answered(gzip.compress(b'{"skus": []}'), "gzip")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert REAL_FETCH("https://cloudbilling.googleapis.com/v1/services/S/skus", "p", "t") == {"skus": []}
    headers = {name.lower(): value for name, value in asked[0].header_items()}
    assert headers["authorization"] == "Bearer t"
    assert headers["x-goog-user-project"] == "p"
    assert "gzip" in headers["user-agent"], "without it Google does not compress"
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: answered(b'{"skus": [1]}'))
    assert REAL_FETCH("https://cloudbilling.googleapis.com/", "p", "t") == {"skus": [1]}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (refusal(403, io.BytesIO(b'{"error": {"message": "not enabled"}}')), "403 not"),
        (refusal(502, io.BytesIO(b"<html>")), "502 <html>"),
        (refusal(502, io.BytesIO()), "502 Bad Gateway"),
        (refusal(502, LostBody()), "502 Bad Gateway"),
        (http.client.IncompleteRead(b"half"), "4 bytes read"),
        (urllib.error.URLError("no route"), "no route"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_refusal_has_the_reason_of_the_api(monkeypatch: pytest.MonkeyPatch, failure: Exception, reason: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(RestError, match=reason):
        REAL_FETCH("https://cloudbilling.googleapis.com/", "p", "t")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: answered(b"no JSON"))
    with pytest.raises(RestError):
        REAL_FETCH("https://cloudbilling.googleapis.com/", "p", "t")
