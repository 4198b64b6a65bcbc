"""The release: its values, its quota, its secrets and its namespace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.unit.cloud_mocks import ROOT
from tests.unit.existing_clusters import CAMPUS, IMAGE, LOCAL, nodes, program, values

__all__ = ["nodes"]
pytestmark = pytest.mark.usefixtures("nodes")


def test_drawn_secret_is_long_and_kept_and_token_longer() -> None:
    recording = program(LOCAL)
    lengths = {resource.name: resource.inputs["length"] for resource in recording.all("RandomPassword")}
    assert lengths == {"future-dev-password": 16, "future-dev-token": 48}


def test_drawn_secret_has_only_characters_that_look_different() -> None:
    for drawn in program(LOCAL).all("RandomPassword"):
        assert (drawn.inputs["special"], len(set(drawn.inputs["overrideSpecial"]))) == (True, 56)
        assert not set(drawn.inputs["overrideSpecial"]) & set("0Oo1lI")
        assert drawn.inputs["overrideSpecial"].isalnum()
        assert not any(drawn.inputs[other] for other in ("upper", "lower", "numeric")), "these would add the others"


def test_drawn_secrets_keep_the_inputs_of_stacks_that_are_up() -> None:
    alphabet = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    kinds = {"special": True, "upper": False, "lower": False, "numeric": False}
    for drawn in program(LOCAL).all("RandomPassword"):
        assert {**drawn.inputs, "length": None} == {**kinds, "overrideSpecial": alphabet, "length": None}


def test_release_and_namespace_have_the_stacks_name_without_a_suffix() -> None:
    recording = program(LOCAL)
    assert recording.one("helm.sh/v3:Release").inputs["name"] == "future-dev"
    assert recording.one("helm.sh/v3:Release").inputs["chart"] == "./chart", "an absolute path differs between machines"
    namespace, secret = recording.one("core/v1:Namespace").inputs, recording.one("core/v1:Secret").inputs
    assert namespace["metadata"]["name"] == "future-dev"
    assert (namespace["apiVersion"], namespace["kind"]) == ("v1", "Namespace")
    assert (secret["apiVersion"], secret["kind"]) == ("v1", "Secret")
    assert secret["metadata"] == {"name": "future-dev-auth", "namespace": "future-dev"}


def test_cost_that_is_not_known_is_not_guessed() -> None:
    for config, told in ((CAMPUS, "unknown"), (LOCAL, "$0.00")):
        cost = program(config).outputs["hourlyCost"][0]
        assert cost == {"now": told, "idle": told, "max": told, "workerNode": told, "parts": {}, "notIncluded": ""}
        shown = values(program(config))["hourlyCost"]
        assert shown == {"idle": told, "max": told, "workerNode": told}, "the live page has it too"


def test_values_hold_the_charts_needs_and_image_by_digest() -> None:
    found = values(program(LOCAL))
    assert found["image"] == IMAGE
    assert found["auth"] == {"existingSecret": "future-dev-auth"}
    assert (found["worker"]["replicas"], found["worker"]["maxReplicas"]) == (4, 4)
    assert found["fullnameOverride"] == "future-dev"


def test_what_the_settings_ask_of_the_chart_reaches_it() -> None:
    found = values(
        program(
            {
                **LOCAL,
                "ide": "jupyterlab",
                "homeGiB": "20",
                "sharedGiB": "5",
                "idleMinutes": "30",
                "cullIdleKernels": "true",
                "ttlHours": "72",
                "workHours": "Mon-Fri 08:00-18:00 Europe/Berlin",
                "host": "r.example.org",
                "labels": "team=statistics",
            }
        )
    )
    assert (found["ide"], found["host"], found["labels"]) == ("jupyterlab", "r.example.org", {"team": "statistics"})
    assert (found["scheduler"]["homeGiB"], found["shared"]["GiB"]) == (20, 5)
    assert (found["idleMinutes"], found["ttlHours"], found["cullIdleKernels"]) == (30, 72, True)
    assert found["workHours"] == "Mon-Fri 08:00-18:00 Europe/Berlin"
    assert values(program(LOCAL))["workHours"] == ""


def test_worker_may_use_its_memory_request_and_idle_cores() -> None:
    for each in ("worker", "scheduler"):
        size = values(program({**CAMPUS, "workerMemoryGiB": "3"}))[each]["resources"]
        assert size["limits"] == {"memory": size["requests"]["memory"]}, "a node whose memory is overbooked kills pods"
        assert int(size["requests"]["cpu"].removesuffix("m")) > 0


def test_worker_on_this_machine_may_take_a_quarter_of_memory() -> None:
    size = values(program(LOCAL))["worker"]["resources"]
    assert (size["requests"]["memory"], size["limits"]["memory"]) == ("128Mi", "3744Mi")


def test_the_stacks_own_namespace_has_labels_and_refuses_privileged_pods() -> None:
    labels = program({**LOCAL, "labels": "team=statistics"}).one("Namespace").inputs["metadata"]["labels"]
    assert labels == {"team": "statistics", "pod-security.kubernetes.io/enforce": "restricted"}


def test_failed_install_is_removed_and_new_nodes_are_awaited() -> None:
    release = program(LOCAL).one("helm.sh/v3:Release").inputs
    assert release["atomic"] is True
    assert release["timeout"] >= 600, "a node takes up to five minutes, the image's first pull several more"


@pytest.mark.parametrize("config", [LOCAL, CAMPUS])
def test_the_charts_schema_accepts_the_values_with_their_types(config: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "chart" / "values.schema.json").read_text())
    more = {"labels": "team=statistics", "sharedGiB": "5", "host": "r.example.org", "idleMinutes": "10080"}
    for found in (values(program(config)), values(program({**config, **more}))):
        jsonschema.validate(found, schema)


def test_chart_value_overrides_the_programs_and_lists_keep_items() -> None:
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists"}
    overlay = {"worker": {"tolerations": [toleration], "resources": {"limits": {"cpu": "2"}}}}
    before, after = values(program(CAMPUS)), values(program({**CAMPUS, "chartValues": overlay}))
    assert after["worker"]["tolerations"] == [*before["worker"]["tolerations"], toleration]
    assert after["worker"]["resources"]["limits"] == {**before["worker"]["resources"]["limits"], "cpu": "2"}
    assert after["scheduler"] == before["scheduler"]


def test_a_public_host_changes_no_value_of_a_pod() -> None:
    private, public = values(program(LOCAL)), values(program({**LOCAL, "host": "r.example.org"}))
    assert {key for key in private if private[key] != public[key]} <= {"host", "ingress"}


def test_changing_the_worker_count_changes_nothing_of_the_schedulers_values() -> None:
    few, many = values(program({**LOCAL, "maxWorkers": "40"})), values(program({**LOCAL, "workers": "40"}))
    for found in (few, many):
        found["worker"].pop("replicas")
    assert few == many


def test_an_edited_template_changes_the_releases_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from components.release.release import chart_hash

    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "templates" / "a.yaml").write_text("a: 1")
    before = chart_hash(chart)
    assert chart_hash(chart) == before
    (chart / "templates" / "a.yaml").write_text("a: 2")
    assert chart_hash(chart) != before
    (chart / "templates" / "a.yaml").write_text("a: 1")
    (chart / "templates" / ".a.yaml.swp").write_text("an editor's")
    (chart / "ci").mkdir()
    for name in ("README.md", "NEWS.md", "values.schema.yaml", "ci/minimal-values.yaml"):
        (chart / name).write_text("a sentence, from which no object is rendered")
    assert chart_hash(chart) == before
    (chart / "values.schema.json").write_text("{}")
    assert chart_hash(chart) != before
    (chart / "values.schema.json").unlink()
    (chart / "templates" / "a.yaml").rename(chart / "templates" / "_a.yaml")
    assert chart_hash(chart) != before, "a file that begins with _ renders nothing"
    assert chart_hash(ROOT / "chart") in program(LOCAL).one("helm.sh/v3:Release").inputs["description"]


def test_object_has_no_empty_labels_which_every_run_would_change() -> None:
    assert "labels" not in program(LOCAL).one("core/v1:Secret").inputs["metadata"]
    labelled = program({**LOCAL, "labels": "team=statistics"}).one("core/v1:Secret")
    assert labelled.inputs["metadata"]["labels"] == {"team": "statistics"}


def test_a_namespace_that_somebody_made_is_used_and_left_alone() -> None:
    recording = program({**CAMPUS, "namespace": "statistics", "createNamespace": "false"})
    assert recording.all("Namespace") == []
    assert recording.one("helm.sh/v3:Release").inputs["namespace"] == "statistics"
    assert values(recording)["resourceQuota"] == {"hard": {}}, "a quota would bind others in the namespace"


def test_the_namespace_default_exists_already_and_is_left_alone() -> None:
    recording = program({**CAMPUS, "namespace": "default"})
    assert recording.all("Namespace") == []
    assert values(recording)["resourceQuota"] == {"hard": {}}


def test_stacks_own_namespace_has_a_quota_for_all_its_pods() -> None:
    found = values(program({**LOCAL, "workers": "2", "maxWorkers": "3"}))
    hard = found["resourceQuota"]["hard"]
    assert int(hard["pods"]) > 3
    assert (hard["services.loadbalancers"], hard["services.nodeports"]) == ("0", "0"), "billed, and nobody asked"
    assert values(program({**LOCAL, "resourceQuota": "false"}))["resourceQuota"] == {"hard": {}}
    forty = values(program({**LOCAL, "workers": "40"}))["resourceQuota"]["hard"]
    assert int(forty["pods"]) > 2 * 40, "all workers may be ending while their successors start"
    assert int(hard["requests.cpu"].removesuffix("m")) >= 3 * int(
        found["worker"]["resources"]["requests"]["cpu"].removesuffix("m")
    ) + int(found["scheduler"]["resources"]["requests"]["cpu"].removesuffix("m"))


def test_quota_has_cores_for_workers_successors_and_two_schedulers() -> None:
    for workers, scheduler in (("4", "2"), ("40", "2"), ("4", "64")):
        config = {**CAMPUS, "workers": workers, "workerCpu": "3", "schedulerCpu": scheduler}
        hard = values(program(config))["resourceQuota"]["hard"]
        need = 1000 * (3 * int(workers) * 2 + 2 * int(scheduler))
        assert need <= int(hard["requests.cpu"].removesuffix("m")) <= 2 * need
        assert int(hard["pods"]) >= 2 * int(workers) + 2


def test_quota_has_memory_for_workers_successors_and_two_schedulers() -> None:
    for workers, scheduler in (("4", "2"), ("40", "2"), ("4", "64")):
        config = {**CAMPUS, "workers": workers, "workerMemoryGiB": "3", "schedulerMemoryGiB": scheduler}
        memory = int(values(program(config))["resourceQuota"]["hard"]["requests.memory"].removesuffix("Mi"))
        need = 1024 * (3 * int(workers) * 2 + 2 * int(scheduler))
        assert need <= memory <= 2 * need


def test_release_keeps_few_revisions_and_one_for_a_rollback() -> None:
    assert 2 <= program(LOCAL).one("helm.sh/v3:Release").inputs["maxHistory"] <= 10


def test_environment_variables_are_in_their_own_secret_only() -> None:
    recording = program({**LOCAL, "environment": {"PGHOST": "db.example.org"}, "labels": "team=statistics"})
    secret = next(found for found in recording.all("core/v1:Secret") if found.name.endswith("-environment"))
    assert secret.inputs["metadata"] == {
        "name": "future-dev-environment", "namespace": "future-dev", "labels": {"team": "statistics"},
    }  # fmt: skip
    assert secret.inputs["stringData"] == {"PGHOST": "db.example.org"}
    assert "db.example.org" not in json.dumps(values(recording))
    assert values(recording) == values(program({**LOCAL, "labels": "team=statistics"})), "no pod restarts for a change"


def test_without_environment_variables_there_is_no_secret_for_them() -> None:
    assert len(program(LOCAL).all("core/v1:Secret")) == 1


def test_pause_of_rollouts_is_passed_on_and_said_each_time() -> None:
    paused = program({**LOCAL, "pauseRollouts": "true"})
    assert values(paused)["pauseRollouts"] is True
    (warning,) = paused.warnings
    assert "pulumi config set pauseRollouts false" in warning
    plain = program(LOCAL)
    assert values(plain)["pauseRollouts"] is False
    assert plain.warnings == []
