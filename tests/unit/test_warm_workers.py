"""`warmWorkers`: room for further workers on GKE and EKS, in the release, the quota and the cost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.aws_cloud import EKS, eks
from tests.unit.cloud_mocks import Recording
from tests.unit.google_cloud import GKE, gke
from tests.unit.settings_cases import problems

pytestmark = pytest.mark.usefixtures("installed_tools")

CLOUDS = {"gke": (gke, GKE), "eks": (eks, EKS)}
ELASTIC = {"workers": 8, "maxWorkers": 40}


def values(done: Recording) -> dict[str, Any]:
    """The chart values of the product's own release."""
    (found,) = (made.inputs["values"] for made in done.all("v3:Release") if made.name == "future-team")
    return dict(found)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_room_is_kept_by_placeholders_within_the_quota(cloud: str) -> None:
    run, _ = CLOUDS[cloud]
    without, found = values(run(ELASTIC)), values(run({**ELASTIC, "warmWorkers": 10}))
    assert (without["worker"]["warmReplicas"], found["worker"]["warmReplicas"]) == (0, 10)
    old, new = without["resourceQuota"]["hard"], found["resourceQuota"]["hard"]
    assert int(new["pods"]) == int(old["pods"]) + 10
    for counted, unit in (("cpu", "m"), ("memory", "Mi")):
        more = int(new[f"requests.{counted}"].removesuffix(unit)) - int(old[f"requests.{counted}"].removesuffix(unit))
        assert more == 10 * int(found["worker"]["resources"]["requests"][counted].removesuffix(unit))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_room_adds_no_node_above_those_of_max_workers(cloud: str) -> None:
    run, _ = CLOUDS[cloud]
    nodes = [run({**ELASTIC, **more}).outputs["nodes"][0] for more in ({}, {"warmWorkers": 10})]
    assert nodes[1] == nodes[0].replace("autoscaled 0 to 10", "autoscaled 0 to 10, room for 10 more workers")


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        ({"workers": 8, "maxWorkers": 40}, (2, 0, 10)),
        ({"workers": 8, "maxWorkers": 40, "warmWorkers": 10}, (5, 3, 10)),
        ({"workers": 8, "maxWorkers": 12, "warmWorkers": 12}, (3, 3, 3)),
        ({"workers": 8, "idleMinutes": 30, "warmWorkers": 4}, (2, 1, 2)),
        ({"workers": 8}, (2, 2, 2)),
    ],
)
def test_kept_nodes_are_in_the_cost_now_and_when_idle(config: dict[str, Any], counts: tuple[int, int, int]) -> None:
    node = 4 * 0.02 + 16 * 0.002
    prices = [f"${count * node:.3f}" for count in counts]
    line = prices[0] if len(set(prices)) == 1 else f"{prices[0]} now, {prices[1]} idle, {prices[2]} at most"
    assert gke(config).outputs["hourlyCost"][0]["parts"]["worker nodes"] == line


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(
    ("config", "allowed", "fix"),
    [
        ({"workers": 8, "warmWorkers": 4}, "0 where the number of nodes is fixed", "set maxWorkers 12"),
        ({"workers": 8, "maxWorkers": 9, "warmWorkers": 10}, "at most maxWorkers, which is 9", "set warmWorkers 9"),
        ({"warmWorkers": -1}, "0 to 5000", "set warmWorkers 8"),
        ({"warmWorkers": 5001}, "0 to 5000", "set warmWorkers 8"),
        ({"warmWorkers": "some"}, "0 to 5000", "set warmWorkers 8"),
    ],
)
def test_room_that_cannot_be_kept_is_refused(cloud: str, config: dict[str, Any], allowed: str, fix: str) -> None:
    text = problems({**CLOUDS[cloud][1], **config})["warmWorkers"]
    assert allowed in text
    assert fix in text
