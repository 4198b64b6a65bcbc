"""Files generated from the settings' models are up to date, and the chart has the models' bounds and defaults."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.clouds import CLOUDS, MODELS
from components.generate import generated, project_file, reference
from components.settings.errors import SettingsError
from components.settings.fields import WORK_HOURS
from components.settings.keys import Key, keys_of
from components.settings.loading import known_keys, parse
from components.settings.model import Settings
from tests.unit.settings_cases import GKE, ROOT

SCHEMA = json.loads((ROOT / "chart" / "values.schema.json").read_text())
VALUES = yaml.safe_load((ROOT / "chart" / "values.yaml").read_text())
REQUIRED = {
    cloud: {name: key.example for name, key in keys_of(model).items() if key.info.is_required()}
    for cloud, model in MODELS.items()
}
REQUIRED["eks"]["authorizedNetworks"] = "203.0.113.0/24"
"""The settings that a cloud needs, with their examples."""


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_a_generated_file_is_what_the_models_make(path: Path) -> None:
    assert path.read_text() == generated()[path], "run: make generate"


def test_the_head_of_the_project_file_is_kept() -> None:
    assert project_file("name: mine\n# Written by `make generate` long ago\n").startswith("name: mine\n# Written")


def test_the_project_file_declares_every_key_once_and_no_type() -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    assert set(declared) == set(known_keys(MODELS))
    for name, entry in declared.items():
        assert set(entry) == {"description", "default"}, "with a type the CLI would stop at the first wrong one"
        assert len(entry["description"]) > 5, name


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_project_files_defaults_are_accepted_on_every_cloud(cloud: str) -> None:
    declared = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    defaults = {name: entry["default"] for name, entry in declared.items()}
    required = {"cloud": cloud, **REQUIRED[cloud]}
    assert parse({**defaults, **required}, MODELS, stack="dev") == parse(required, MODELS, stack="dev")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_key_has_a_description_and_a_valid_example(cloud: str) -> None:
    model = MODELS[cloud]
    assert model.model_fields["cloud"].default == cloud
    for name, key in keys_of(model).items():
        assert key.description, name
        assert key.secret or key.example, name
        if key.secret:
            continue
        given = {"cloud": cloud, **REQUIRED[cloud], name: shlex.split(key.command())[-1]}
        if name in ("subnets", "publicSubnets", "network"):
            given |= {"network": "vpc-1", "subnets": "a,b" if cloud == "eks" else "a"}
        if name == "otherMachineTypes":
            given["spot"] = "true"
        if name in ("acmeEmail", "hostNetworks"):
            given["host"] = "r.example.org"
        secrets = frozenset[str]()
        if name.startswith("oidc"):
            rest = {
                "oidcIssuer": "https://e.org",
                "oidcClientId": "r",
                "oidcClientSecret": "a-secret",
                "oidcUsers": "*",
            }
            given, secrets = {"host": "r.example.org", **rest, **given}, frozenset({"oidcClientSecret"})
        if name in ("monthlyBudget", "budgetEmail"):
            given = {"monthlyBudget": "5", "budgetEmail": "a@example.org", **given}
        if name in ("rPackages", "aptPackages"):
            given = {"cloud": "eks", **REQUIRED["eks"], name: key.example}
        if name == "warmWorkers":
            given["maxWorkers"] = "40"
        if name == "cullIdleKernels":
            given["idleMinutes"] = "30"
        if name == "imagePullSecrets" or (name, cloud) == ("keepHome", "kubeconfig"):
            given["createNamespace"] = "false"
        if name == "sharedGiB":
            given[name] = "2048"
        parse(given, MODELS, stack="dev", secrets=secrets)


def test_reference_has_a_row_for_each_clouds_every_key() -> None:
    common, *own = re.split(r"^## ", reference(), flags=re.MULTILINE)[1:]
    for cloud, section in zip(CLOUDS, own, strict=True):
        assert section.startswith(f"`cloud: {cloud}`\n")
        rows = set(re.findall(r"^\| `(\w+)` \|", common + section, flags=re.MULTILINE))
        assert rows == {"cloud", *keys_of(MODELS[cloud])}


@pytest.mark.parametrize("key", [key for key in keys_of(Settings).values() if key.chart], ids=lambda key: key.name)
def test_the_chart_has_the_same_bounds_as_the_setting(key: Key) -> None:
    rules: dict[str, Any] = SCHEMA
    for part in key.chart.split("."):
        rules = rules["properties"][part]
    minimum, maximum = key.type.bounds()
    assert rules.get("maximum") == maximum
    assert maximum is None or rules["minimum"] <= minimum  # the chart accepts 0 workers, the setting does not


def test_the_chart_takes_the_same_work_hours_as_the_setting() -> None:
    assert SCHEMA["properties"]["workHours"]["pattern"] == f"^(|{WORK_HOURS})$"


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("r.example.org", True),
        (f"{'a' * 63}.example.org", True),
        (f"{'a' * 64}.example.org", False),
        (".".join(["a" * 49] * 5) + ".org", True),  # 253 characters
        (".".join(["a" * 49] * 5) + ".orga", False),
        ("localhost", False),
        ("-r.example.org", False),
        ("r_.example.org", False),
    ],
)
def test_the_chart_takes_the_same_hosts_as_the_setting(name: str, taken: bool) -> None:
    rules = SCHEMA["properties"]["host"]
    assert (re.search(rules["pattern"], name) is not None and len(name) <= rules["maxLength"]) == taken
    if taken:
        parse({**GKE, "host": name}, MODELS, stack="team")
    else:
        with pytest.raises(SettingsError, match="host"):
            parse({**GKE, "host": name}, MODELS, stack="team")


def test_the_chart_has_the_same_defaults_as_the_settings() -> None:
    default = {name: key.default for name, key in keys_of(Settings).items()}
    scheduler = VALUES["scheduler"]
    memory = f"{default['schedulerMemoryGiB']:g}Gi"
    assert scheduler["resources"] == {
        "requests": {"cpu": f"{default['schedulerCpu'] * 1000:g}m", "memory": memory},
        "limits": {"memory": memory},
    }
    assert scheduler["homeGiB"] == default["homeGiB"]
    assert (VALUES["ide"], VALUES["shared"]["GiB"]) == (default["ide"], default["sharedGiB"])
    assert (VALUES["idleMinutes"], VALUES["ttlHours"]) == (default["idleMinutes"], default["ttlHours"])


def test_the_chart_offers_the_same_ides() -> None:
    assert tuple(SCHEMA["properties"]["ide"]["enum"]) == keys_of(Settings)["ide"].type.choices
