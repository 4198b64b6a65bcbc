"""chartValues: laid over the program's values, checked by the chart's schema, and refused where the program decides."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from components.clouds import MODELS
from components.release.values import merged
from components.settings.chart_overlay import OWNED, SCHEMA, holds, owned_values
from components.settings.errors import SettingsError
from components.settings.keys import keys_of
from components.settings.loading import known_keys, parse

CAMPUS = {"cloud": "kubeconfig", "image": "a/b:1"}
MANAGED = {"cloud": "gke", "project": "my-project", "region": "us-west1", "maxWorkers": 40}
"""A cloud that has every setting of which the chart has a value."""
GUARANTEED = owned_values(keys_of(MODELS["gke"]))


def problems(overlay: Any, **settings: Any) -> dict[str, str]:
    """The message of each problem by its key."""
    with pytest.raises(SettingsError) as caught:
        parse({**CAMPUS, "chartValues": json.dumps(overlay), **settings}, MODELS, stack="dev")
    return {problem.key: str(problem) for problem in caught.value.problems}


@pytest.mark.parametrize(
    "overlay",
    [
        {"imagePullSecrets": [{"name": "regcred"}]},
        {"worker": {"resources": {"limits": {"cpu": "2", "nvidia.com/gpu": 1}}, "priorityClassName": "batch"}},
        {"networkPolicy": {"extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}},
        {"scheduler": {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]}},
    ],
)
def test_a_value_without_a_key_of_its_own_is_accepted(overlay: dict[str, Any]) -> None:
    assert parse({**CAMPUS, "chartValues": json.dumps(overlay)}, MODELS, stack="dev").chart_values == overlay


def test_an_unknown_value_is_refused_with_the_nearest_one() -> None:
    found = problems({"worker": {"priorityClasName": "batch"}})["chartValues.worker.priorityClasName"]
    assert found.splitlines()[1:] == [
        "    allowed: no such value of the chart; did you mean priorityClassName?",
        "    fix:     pulumi config rm --path chartValues.worker.priorityClasName",
    ]


def test_value_of_the_wrong_type_is_refused_with_the_range() -> None:
    assert problems({"scheduler": {"gracePeriodSeconds": "long"}})["chartValues.scheduler.gracePeriodSeconds"] == (
        "chartValues.scheduler.gracePeriodSeconds is 'long'\n"
        "    allowed: a whole number from 0 to 86400\n"
        "    fix:     pulumi config set --path chartValues.scheduler.gracePeriodSeconds VALUE"
    )


def test_an_item_of_a_list_is_named_by_its_index() -> None:
    found = problems({"worker": {"tolerations": [{"key": "gpu"}, {"effect": "Never"}]}})
    assert "one of '', 'NoSchedule'" in found["chartValues.worker.tolerations[1].effect"]


def test_chart_values_are_reported_together_with_other_wrong_settings() -> None:
    found = problems({"nope": 1, "auth": {"existingSecret": "mine"}}, workers="four", maxWorkers="0")
    assert set(found) == {"chartValues.nope", "chartValues.auth", "workers", "maxWorkers"}


def test_every_chart_value_that_a_setting_decides_is_owned() -> None:
    resources = {"requests.cpu", "requests.memory", "limits.memory"}
    sized = {f"{pod}.resources.{name}" for pod in ("scheduler", "worker") for name in resources}
    computed = {"image", "auth", "fullnameOverride", "scheduler.keepHome", "networkPolicy.identityServer"}
    computed |= {"worker.warmReplicas", "oidc.existingSecret", "oidc.users", "oidc.secretVersion"}
    assert set(OWNED) == sized | computed


@pytest.mark.parametrize("cloud", MODELS)
def test_settings_that_are_passed_on_have_their_chart_values(cloud: str) -> None:
    passed_on = {
        "worker.replicas": "workers",
        "worker.maxReplicas": "maxWorkers",
        "ide": "ide",
        "scheduler.homeGiB": "homeGiB",
        "shared.GiB": "sharedGiB",
        "host": "host",
        "idleMinutes": "idleMinutes",
        "cullIdleKernels": "cullIdleKernels",
        "pauseRollouts": "pauseRollouts",
        "ttlHours": "ttlHours",
        "workHours": "workHours",
        "labels": "labels",
        "monitoring.enabled": "monitoring",
        "oidc.issuer": "oidcIssuer",
        "oidc.clientId": "oidcClientId",
    }
    assert passed_on.items() <= {key.chart: name for name, key in keys_of(MODELS[cloud]).items()}.items()


@pytest.mark.parametrize(
    ("overlay", "key", "allowed"),
    [
        ({"networkPolicy": {"enabled": "x"}}, "networkPolicy.enabled", "true or false"),
        ({"networkPolicy": {"extraEgress": "x"}}, "networkPolicy.extraEgress", "a list"),
        ({"worker": "x"}, "worker", "a map"),
        ({"worker": {"nodeSelector": {"a": 1}}}, "worker.nodeSelector.a", "text"),
        (
            {"worker": {"extraEnv": [{"name": "1A"}]}},
            "worker.extraEnv[0].name",
            "text that matches ^[A-Za-z_][A-Za-z0-9_]*$",
        ),
        (
            {"worker": {"extraEnv": [{"value": "x"}]}},
            "worker.extraEnv[0]",
            "what chart/values.schema.json allows ('name' is a required property)",
        ),
        ({"scheduler": {"gracePeriodSeconds": -1}}, "scheduler.gracePeriodSeconds", "a whole number from 0 to 86400"),
    ],
)
def test_value_of_the_wrong_type_is_refused_with_right_type(overlay: Any, key: str, allowed: str) -> None:
    assert f"allowed: {allowed}\n" in problems(overlay)[f"chartValues.{key}"]


@pytest.mark.parametrize("path", GUARANTEED)
def test_value_that_the_program_guarantees_is_refused_with_reason(path: str) -> None:
    overlay: Any = "x"
    for part in reversed(path.split(".")):
        overlay = {part: overlay}
    found = problems(overlay, **MANAGED)
    assert list(found) == [f"chartValues.{path}"]
    message = found[f"chartValues.{path}"]
    key, reason = GUARANTEED[path]
    assert f"only {'the setting ' + key if key else 'the program'} may set it" in message
    assert reason in message
    assert f"pulumi config rm --path chartValues.{path}" in message


def test_every_guaranteed_value_and_its_setting_exist() -> None:
    values = yaml.safe_load((SCHEMA.parent / "values.yaml").read_text())
    for path, (key, _reason) in GUARANTEED.items():
        assert holds(values, path), path
        assert not key or key in known_keys(MODELS)


def test_encrypted_chart_values_are_refused_since_cluster_stores_plain_text() -> None:
    with pytest.raises(SettingsError, match="kept in plain text only"):
        parse({**CAMPUS, "chartValues": '{"labels": {}}'}, MODELS, stack="dev", secrets=frozenset({"chartValues"}))


@pytest.mark.parametrize("value", ["text", "[1]", "7"])
def test_chart_values_that_are_no_map_are_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="a map of values of the chart"):
        parse({**CAMPUS, "chartValues": value}, MODELS, stack="dev")


def test_maps_are_merged_lists_appended_and_other_values_replaced() -> None:
    values = {"a": {"b": 1, "c": 2}, "list": [1], "kept": 0}
    assert merged(values, {"a": {"c": 3, "d": 4}, "list": [2], "new": {}}) == {
        "a": {"b": 1, "c": 3, "d": 4},
        "list": [1, 2],
        "kept": 0,
        "new": {},
    }
    assert values == {"a": {"b": 1, "c": 2}, "list": [1], "kept": 0}
    assert merged({"a": {"b": 1}, "c": [1]}, {"a": "text", "c": {"d": 1}}) == {"a": "text", "c": {"d": 1}}
    assert merged({"a": "text", "c": 0}, {"a": {"b": 1}, "c": [1]}) == {"a": {"b": 1}, "c": [1]}


def test_chart_value_without_a_setting_here_is_the_users() -> None:
    assert parse({**CAMPUS, "chartValues": json.dumps({"worker": {"warmReplicas": 4}})}, MODELS, stack="dev")
    with pytest.raises(SettingsError, match="only the setting warmWorkers may set it"):
        parse({**MANAGED, "chartValues": json.dumps({"worker": {"warmReplicas": 4}})}, MODELS, stack="dev")
