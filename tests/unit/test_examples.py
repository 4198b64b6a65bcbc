"""The example stacks beside those of the clouds, and two stacks that share a cluster."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cloud_mocks import ROOT, Recorded, Recording, listing, run, stack_config

from components import kubeconfig as existing
from components.settings import KEYS
from components.sizing import Capacity

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _campus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kubeconfig with the context `campus`, whose cluster has four nodes."""
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://kubernetes.example.org:6443"}}],
        "users": [{"name": "u", "user": {"token": "a-token"}}],
        "contexts": [{"name": "campus", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "config").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(existing, "read_nodes", lambda _access: [Capacity(16000, 65536)] * 4)


def computed(_type: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {"name": inputs.get("name", name)}


def registry_image(args: Any) -> dict[str, Any]:
    return {"id": args["name"], "name": args["name"], "sha256Digest": "sha256:" + "c" * 64}


def campus(config: dict[str, Any] | None = None, name: str = "campus") -> Recording:
    answers = {"docker:index/getRegistryImage:getRegistryImage": registry_image}
    return run({**stack_config("campus"), **(config or {})}, answers, computed, stack_name=name)


def test_the_campus_stack_registers_the_resources_of_its_golden_list_without_a_warning() -> None:
    golden = GOLDEN / "campus.txt"
    done = campus()
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(listing(done))
    assert listing(done) == golden.read_text(), (
        "if this change is meant: UPDATE_GOLDEN=1 pytest tests/unit/test_examples.py"
    )
    assert done.warnings == []


def test_a_tag_is_pinned_to_its_digest() -> None:
    values = campus().one("helm.sh/v3:Release").inputs["values"]
    assert values["image"].endswith("@sha256:" + "c" * 64)


def test_two_stacks_on_one_cluster_share_no_object() -> None:
    own = {"namespace": "", "createNamespace": True}

    def named(resource: Recorded) -> tuple[str, str]:
        metadata = resource.inputs.get("metadata", resource.inputs)
        return resource.type, f"{metadata.get('namespace')}/{metadata['name']}"

    objects = [
        {named(resource) for resource in campus(own, name).resources if resource.type.startswith("kubernetes:")}
        for name in ("statistics", "biology")
    ]
    assert len(objects[0]) >= 3
    assert not objects[0] & objects[1]


@pytest.mark.parametrize("name", ["gke-team", "eks-team", "campus"])
def test_an_example_stack_is_a_handful_of_lines(name: str) -> None:
    assert len((ROOT / f"Pulumi.{name}.yaml").read_text().splitlines()) <= 12


PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_and_output_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"pulumi config set (?:--secret )?(\w+)", text))
    assert named <= set(KEYS), named - set(KEYS)
    told = {*campus().outputs, "hostAddress"}
    asked = set(re.findall(r"pulumi stack output (\w+)", text))
    assert asked <= told, asked - told
    for key in re.findall(r"fix: +pulumi config set (\w+)", text):
        assert key in KEYS


@pytest.mark.parametrize("module", ["gke", "eks", "google_site", "aws_site", "cloud"])
def test_every_setting_that_a_message_tells_people_to_set_exists(module: str) -> None:
    text = (ROOT / "components" / f"{module}.py").read_text()
    named = set(re.findall(r"pulumi config (?:set|rm) (\w+)", text))
    assert named
    assert named <= set(KEYS), named - set(KEYS)
