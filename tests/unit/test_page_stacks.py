"""The stacks that the pages of both clouds tell a new user to type: created under mocks, and counted."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from components.clouds import MODELS
from components.settings.loading import parse
from tests.unit import aws_cloud, google_cloud
from tests.unit.cloud_mocks import ROOT, Recording, run, stack_config
from tests.unit.page_commands import blocks

pytestmark = pytest.mark.usefixtures("installed_tools")

CLOUDS = ("gke", "eks")
ADDRESS = "203.0.113.7"
"""The answer to the command that asks for the user's own address."""


def typed(block: str) -> list[dict[str, str]]:
    """The settings that a shell block gives to each stack in turn: the current one, then each that it creates."""
    found: list[dict[str, str]] = [{}]
    for line in block.splitlines():
        if line.startswith("pulumi stack init"):
            found.append({})
        if match := re.match(r"pulumi config set (?!--)(.*?)(?: && .*)?$", line):
            key, value = shlex.split(match[1], comments=True)[:2]
            found[-1][key] = re.sub(r"\$\(curl [^)]*\)", ADDRESS, value)
    return found


def new_stack(cloud: str) -> dict[str, str]:
    """The settings of the page's own stack."""
    (block,) = [each for each in blocks(f"{cloud}.md") if f"pulumi stack init {cloud}-mine" in each]
    return typed(block)[1]


def created(cloud: str, config: dict[str, Any]) -> Recording:
    place = {"gke": google_cloud, "eks": aws_cloud}[cloud]
    return run(config, place.ANSWERS, place.computed, stack_name=f"{cloud}-mine")


def page(cloud: str) -> str:
    """The page's text without breaks of lines."""
    return " ".join((ROOT / "docs" / f"{cloud}.md").read_text().split())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_stack_typed_as_on_the_page_has_no_warning(cloud: str) -> None:
    config = new_stack(cloud)
    assert {"cloud", "region", "workers", "maxWorkers", "spot", "ttlHours"} <= set(config)
    done = created(cloud, config)
    assert done.warnings == []
    assert done.outputs["nodes"][0].startswith("3 x ")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_example_file_has_no_setting_that_the_page_changes(cloud: str) -> None:
    on_page = new_stack(cloud)
    own = {"machineType", "authorizedNetworks", "teamRoles"}
    for key, value in stack_config(f"{cloud}-team").items():
        assert str(value) == on_page.get(key) or key in own, key
    model: Any = MODELS[cloud]
    assert stack_config(f"{cloud}-team")["machineType"] == model.model_fields["machine_type"].default


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_later_setting_of_the_page_is_accepted(cloud: str) -> None:
    """Typed down the page, one upon another."""
    whole, tried = blocks(f"{cloud}.md"), 0
    mine = new_stack(cloud)
    main = next(at for at, each in enumerate(whole) if f"pulumi stack init {cloud}-mine" in each)
    for block in whole[main + 1 :]:
        for index, later in enumerate(typed(block)):
            # Commands, placeholders and values of the chart are not of the model.
            known = {key: text for key, text in later.items() if "$(" not in text and text != "NAME" and "." not in key}
            if index:
                # A second team's stack has these from the first one's outputs.
                parse({**known, "image": "ghcr.io/a/b:1", "context": "c"}, MODELS, stack=f"{cloud}-biology")
            else:
                mine |= known
                parse(mine, MODELS, stack=f"{cloud}-mine")
            tried += len(known)
    assert tried >= 15


def most(done: Recording, cloud: str) -> tuple[int, int]:
    """Nodes for the workers at most, counted in one pool of those that share them, and for the system."""
    pools = done.all("nodePool:NodePool" if cloud == "gke" else "nodeGroup:NodeGroup")
    found: dict[bool, int] = {}
    for pool in pools:
        limits = pool.inputs.get("autoscaling") or pool.inputs.get("scalingConfig") or {}
        number = limits.get("totalMaxNodeCount") or limits.get("maxNodeCount") or limits.get("maxSize")
        system = "-system" in pool.name
        found[system] = max(found.get(system, 0), number or pool.inputs.get("nodeCount", 0))
    return found[False], found[True]


def test_quotas_on_the_page_of_google_fit_its_stacks() -> None:
    config = new_stack("gke")
    text = page("gke")
    for settings, words in (
        (config, r"needs at most (\d+) CPUs.*?needs (\d+) GB of SSD_TOTAL_GB"),
        (
            {key: config[key] for key in ("cloud", "project", "region")} | {"workers": "4"},
            r"This fits (\d+) CPUs and (\d+) GB of SSD_TOTAL_GB",
        ),
    ):
        done = created("gke", settings)
        workers, system = most(done, "gke")
        system = max(system, 3)
        disks = {pool.inputs["nodeConfig"]["diskSizeGb"] for pool in done.all("nodePool:NodePool")}
        home = done.one("compute/disk:Disk").inputs["size"]
        match = re.search(words, text)
        assert match
        assert (int(match[1]), int(match[2])) == (
            4 * workers + 2 * system,
            (workers + system) * max(disks) + home,
        )


def test_quotas_on_the_page_of_aws_fit_its_stack() -> None:
    done = created("eks", new_stack("eks"))
    workers, system = most(done, "eks")
    match = re.search(r"needs at most (\d+) vCPUs for its workers.*?needs (\d+) more vCPUs on demand", page("eks"))
    assert match
    assert (int(match[1]), int(match[2])) == (4 * workers, 2 * system)
    asked = re.findall(r"quota-code (L-\w+) --desired-value (\d+)", page("eks"))
    assert dict(asked) == {"L-1216C47A": match[2], "L-34B43A08": match[1]}
