"""The whole program under the SDK's mocks: what it registers, how that is wired, and what stays secret."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.clouds.existing import cluster as existing
from components.clouds.existing import local
from components.clouds.sizing import Capacity
from tests.unit.cloud_mocks import ROOT, Recording, Refused, is_secret, run

IMAGE = "127.0.0.1:5000/future-kubernetes@sha256:" + "ab" * 32
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters:
- {name: one, cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: Y2E=}}
- {name: two, cluster: {server: "https://10.0.0.2:6443", certificate-authority-data: Y2I=}}
users: [{name: me, user: {token: the-token-of-the-cluster}}]
contexts:
- {name: first, context: {cluster: one, user: me}}
- {name: second, context: {cluster: two, user: me}}
current-context: first
"""
LOCAL = {"cloud": "local", "image": IMAGE, "workers": "4"}
CAMPUS = {"cloud": "kubeconfig", "image": IMAGE, "workers": "4"}


@pytest.fixture(autouse=True)
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Capacity]:
    """A kubeconfig, and the nodes that its cluster answers with."""
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    monkeypatch.setenv("FUTURE_KUBERNETES_KUBECONFIG", str(path))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", '["future-kubernetes:password"]')
    found = [Capacity(4000, 16000)]
    monkeypatch.setattr(existing, "read_nodes", lambda access: found)
    monkeypatch.setattr(local, "read_nodes", lambda access: found)
    return found


def program(config: dict[str, Any], **options: Any) -> Recording:
    answers = {"docker:index/getRegistryImage:getRegistryImage": lambda args: {"sha256Digest": "sha256:" + "cd" * 32}}
    return run(config, answers, lambda type_, name, inputs: {}, stack_name="dev", **options)


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(Refused) as caught:
        program(config)
    assert caught.value.nothing_was_made
    assert "RunError" in [type_.__name__ for type_ in type(caught.value.error).__mro__], "printed with a stack trace"
    return str(caught.value)


def values(recording: Recording) -> dict[str, Any]:
    return dict(recording.one("helm.sh/v3:Release").inputs["values"])


def test_stack_dev_registers_these_resources_and_no_others() -> None:
    custom = [resource.type for resource in program(LOCAL).resources if resource.custom]
    assert sorted(custom) == [
        "kubernetes:core/v1:Namespace",
        "kubernetes:core/v1:Secret",
        "kubernetes:helm.sh/v3:Release",
        "pulumi:providers:kubernetes",
        "random:index/randomPassword:RandomPassword",
        "random:index/randomPassword:RandomPassword",
    ]


@pytest.mark.parametrize("config", [LOCAL, CAMPUS])
def test_every_object_has_the_component_as_parent_and_the_clusters_provider(config: dict[str, Any]) -> None:
    recording = program(config)
    provider = recording.one("pulumi:providers:kubernetes")
    release = recording.one("index:Release")
    for resource in recording.resources:
        if resource.type.startswith("kubernetes:"):
            assert resource.parent == release.urn
            assert resource.provider.startswith(provider.urn)
        assert not resource.protect
        assert not resource.aliases


def test_the_provider_keeps_its_identity_when_only_credentials_change(tmp_path: Path) -> None:
    first = program(LOCAL).one("pulumi:providers:kubernetes")
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG.replace("the-token-of-the-cluster", "another-token"))
    second = program(LOCAL).one("pulumi:providers:kubernetes")
    assert first.inputs["kubeconfig"] != second.inputs["kubeconfig"]
    assert first.inputs["clusterIdentifier"] == second.inputs["clusterIdentifier"]
    path.write_text(KUBECONFIG.replace("Y2E=", "bmV3"))
    assert (
        program(LOCAL).one("pulumi:providers:kubernetes").inputs["clusterIdentifier"]
        != first.inputs["clusterIdentifier"]
    )


def test_the_release_waits_for_the_secret_and_goes_before_the_namespace() -> None:
    recording = program(LOCAL)
    release, secret, namespace = (
        recording.one("helm.sh/v3:Release"),
        recording.one("core/v1:Secret"),
        recording.one("core/v1:Namespace"),
    )
    assert recording.goes_before(release, secret)
    assert recording.goes_before(secret, namespace)


def test_secrets_are_secret_in_every_input_and_output() -> None:
    recording = program(LOCAL)
    secret = recording.one("core/v1:Secret")
    assert is_secret(secret.sent["stringData"]) or all(map(is_secret, secret.sent["stringData"].values()))
    assert set(secret.inputs["stringData"]) == {"password", "token"}
    assert is_secret(recording.one("pulumi:providers:kubernetes").sent["kubeconfig"])
    hidden = {name for name, (_, secret) in recording.outputs.items() if secret}
    assert hidden == {"password", "kubeconfig"}


def test_the_password_is_in_no_values_and_no_output_but_its_own() -> None:
    given = "correct horse battery"
    recording = program({**LOCAL, "password": given})
    for resource in recording.resources:
        assert given not in json.dumps(resource.sent) or resource.type.endswith("v1:Secret")
    assert [name for name, (value, _) in recording.outputs.items() if given in str(value)] == ["password"]
    assert recording.all("RandomPassword") == recording.all("RandomPassword", "token")


def test_a_drawn_secret_is_long_and_kept_and_the_token_longer() -> None:
    recording = program(LOCAL)
    lengths = {resource.name: resource.inputs["length"] for resource in recording.all("RandomPassword")}
    assert lengths == {"future-dev-password": 16, "future-dev-token": 48}


def test_values_hold_what_the_chart_asks_for_and_the_image_by_digest() -> None:
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
                "ttlHours": "72",
                "host": "r.example.org",
                "labels": "team=statistics",
            }
        )
    )
    assert (found["ide"], found["host"], found["labels"]) == ("jupyterlab", "r.example.org", {"team": "statistics"})
    assert (found["scheduler"]["homeGiB"], found["shared"]["GiB"]) == (20, 5)
    assert (found["idleMinutes"], found["ttlHours"]) == (30, 72)


def test_a_worker_may_take_the_memory_that_it_asks_for_and_cores_that_nobody_uses() -> None:
    for each in ("worker", "scheduler"):
        size = values(program({**CAMPUS, "workerMemoryGiB": "3"}))[each]["resources"]
        assert size["limits"] == {"memory": size["requests"]["memory"]}, "a node whose memory is overbooked kills pods"
        assert int(size["requests"]["cpu"].removesuffix("m")) > 0


def test_a_namespace_of_the_stacks_own_carries_its_labels_and_no_pod_in_it_may_be_privileged() -> None:
    labels = program({**LOCAL, "labels": "team=statistics"}).one("Namespace").inputs["metadata"]["labels"]
    assert labels == {"team": "statistics", "pod-security.kubernetes.io/enforce": "baseline"}


def test_a_failed_install_is_taken_away_and_nodes_that_must_first_be_bought_are_waited_for() -> None:
    release = program(LOCAL).one("helm.sh/v3:Release").inputs
    assert release["atomic"] is True
    assert release["timeout"] >= 600, "a node takes up to five minutes, the image's first pull several more"


def test_the_charts_schema_accepts_the_values() -> None:
    schema = json.loads((ROOT / "chart" / "values.schema.json").read_text())
    found = values(program({**LOCAL, "labels": "team=statistics", "sharedGiB": "5", "host": "r.example.org"}))

    def check(value: Any, rules: dict[str, Any], path: str) -> None:
        """Closed objects only: a full validator is Helm's, and the chart's own tests have it."""
        if isinstance(value, dict) and rules.get("additionalProperties") is False:
            assert set(value) <= set(rules["properties"]), path
            for key, entry in value.items():
                check(entry, rules["properties"][key], f"{path}.{key}")

    assert schema["additionalProperties"] is False
    check(found, schema, "values")


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
    assert chart_hash(chart) == before
    assert chart_hash(ROOT / "chart") in program(LOCAL).one("helm.sh/v3:Release").inputs["description"]


def test_nothing_that_is_registered_names_a_folder_of_this_machine() -> None:
    recording = program(CAMPUS)
    release = json.dumps(recording.one("helm.sh/v3:Release").sent)
    assert str(ROOT) not in release
    assert str(Path.home()) not in release


def test_the_same_settings_register_the_same_twice() -> None:
    first, second = program(LOCAL), program(LOCAL)

    def sent(recording: Recording) -> dict[str, Any]:
        return {resource.urn: resource.sent for resource in recording.resources}

    assert sent(first) == sent(second)


def test_an_image_by_digest_asks_nobody_and_a_tag_is_pinned() -> None:
    assert program(LOCAL).asked == []
    tagged = program({**CAMPUS, "image": "ghcr.io/org/r:1.0"})
    assert [token for token, _, _ in tagged.asked] == ["docker:index/getRegistryImage:getRegistryImage"]
    assert values(tagged)["image"] == "ghcr.io/org/r:1.0@sha256:" + "cd" * 32


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("unauthorized: authentication required", "docker login"),
        ("Got error when attempting to fetch image version: 403 Forbidden", "docker login"),
        ("manifest unknown", "push the image"),
        ("dial tcp: lookup ghcr.io: no such host", "by its digest"),
        ("Error pinging Docker server: is the docker daemon running?", "start Docker"),
    ],
)
@pytest.mark.parametrize("config", [CAMPUS, {"cloud": "gke", "project": "my-project", "region": "us-west1"}])
def test_a_registry_that_refuses_is_told_before_anything_is_made(config: dict[str, Any], reason: str, fix: str) -> None:
    def refuse(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError(reason)

    answers = {"docker:index/getRegistryImage:getRegistryImage": refuse}
    with pytest.raises(Refused) as caught:
        run({**config, "image": "ghcr.io/org/r:1.0"}, answers, lambda type_, name, inputs: {}, stack_name="dev")
    assert caught.value.nothing_was_made
    assert reason in str(caught.value)
    assert fix in str(caught.value)


def test_the_outputs_are_those_that_users_rely_on() -> None:
    recording = program(LOCAL)
    assert set(recording.outputs) >= {
        "url", "portForward", "username", "password", "kubeconfig", "kubeconfigCommand", "namespace", "image",
        "workers", "maxWorkers", "nodes", "hourlyCost", "copyTo", "copyFrom", "shell",
    }  # fmt: skip
    assert recording.outputs["username"] == ("rstudio", False)
    assert recording.outputs["namespace"] == ("future-dev", False)
    assert recording.outputs["workers"] == (4, False)
    assert recording.outputs["url"] == ("http://localhost:8787", False)
    services = (ROOT / "chart" / "templates" / "services.yaml").read_text()
    assert recording.outputs["portForward"][0].endswith(" service/future-dev-scheduler 8787:8787")
    assert "{name: ide, port: 8787," in services


@pytest.mark.parametrize("name", ["portForward", "copyTo", "copyFrom", "shell"])
def test_a_command_among_the_outputs_is_one_that_a_shell_accepts(name: str) -> None:
    for config in (LOCAL, CAMPUS):
        command, _ = program(config).outputs[name]
        assert command.startswith(("kubectl ", "/"))
        assert "--namespace future-dev" in command
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_a_kubeconfig_that_the_settings_name_is_named_in_the_commands(tmp_path: Path) -> None:
    named = tmp_path / "a folder" / "config"
    named.parent.mkdir()
    named.write_text(KUBECONFIG)
    outputs = program({**CAMPUS, "kubeconfig": str(named)}).outputs
    for name in ("portForward", "shell", "kubeconfigCommand"):
        assert outputs[name][0].startswith(f"kubectl --kubeconfig '{named}' "), name


def test_without_a_kubectl_of_the_machines_own_the_commands_name_the_one_of_make_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("own", "machine"):
        (tmp_path / folder).mkdir()
    program_file = tmp_path / "own/kubectl"
    program_file.write_text("#!/bin/sh\n")
    program_file.chmod(0o755)
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", str(tmp_path / "own"))
    monkeypatch.setenv("PATH", f"{tmp_path}/machine:{tmp_path}/own")
    assert program(LOCAL).outputs["shell"][0].startswith(f"{program_file} --kubeconfig ")
    shutil.copy(program_file, tmp_path / "machine")
    assert program(LOCAL).outputs["shell"][0].startswith("kubectl --kubeconfig ")


def test_an_object_has_no_empty_labels_which_would_be_a_change_on_every_run() -> None:
    assert "labels" not in program(LOCAL).one("core/v1:Secret").inputs["metadata"]
    labelled = program({**LOCAL, "labels": "team=statistics"}).one("core/v1:Secret")
    assert labelled.inputs["metadata"]["labels"] == {"team": "statistics"}


def test_a_public_host_is_the_url_and_its_address_an_output() -> None:
    recording = program({**LOCAL, "host": "r.example.org"})
    assert recording.outputs["url"][0] == "https://r.example.org"
    assert recording.outputs["hostAddress"][0] == "unknown"
    assert values(recording)["host"] == "r.example.org"


def test_a_namespace_that_somebody_made_is_used_and_left_alone() -> None:
    recording = program({**CAMPUS, "namespace": "statistics", "createNamespace": "false"})
    assert recording.all("Namespace") == []
    assert recording.one("helm.sh/v3:Release").inputs["namespace"] == "statistics"
    assert values(recording)["resourceQuota"] == {"hard": {}}, "a quota would bind others in the namespace"


def test_a_namespace_of_the_stacks_own_has_a_quota_that_holds_all_its_pods() -> None:
    found = values(program({**LOCAL, "workers": "2", "maxWorkers": "3"}))
    hard = found["resourceQuota"]["hard"]
    assert int(hard["pods"]) > 3
    assert (hard["services.loadbalancers"], hard["services.nodeports"]) == ("0", "0"), "billed, and nobody asked"
    assert values(program({**LOCAL, "resourceQuota": "false"}))["resourceQuota"] == {"hard": {}}
    forty = values(program({**LOCAL, "workers": "40"}))["resourceQuota"]["hard"]
    assert int(forty["pods"]) > 40 + 10, "a quarter of the workers may be ending while their successors start"
    assert int(hard["requests.cpu"].removesuffix("m")) >= 3 * int(
        found["worker"]["resources"]["requests"]["cpu"].removesuffix("m")
    ) + int(found["scheduler"]["resources"]["requests"]["cpu"].removesuffix("m"))


def test_wrong_settings_are_refused_before_anything_is_made() -> None:
    assert "2 settings are wrong" in refusal({**LOCAL, "workers": "0", "ide": "emacs"})


def test_a_context_that_is_not_there_is_refused_with_those_that_are() -> None:
    message = refusal({**CAMPUS, "context": "third"})
    assert "allowed: first, second" in message
    assert "pulumi config set context first" in message


def test_the_second_context_is_the_second_cluster() -> None:
    recording = program({**CAMPUS, "context": "second"})
    kubeconfig = json.loads(recording.one("pulumi:providers:kubernetes").inputs["kubeconfig"])
    assert kubeconfig["clusters"][0]["cluster"]["server"] == "https://10.0.0.2:6443"
    assert len(kubeconfig["clusters"]) == 1, "credentials of other clusters stay out of the state"


@pytest.mark.parametrize("cloud", ["local", "kubeconfig"])
def test_a_node_too_small_is_said_before_anything_is_made(cloud: str, nodes: list[Capacity]) -> None:
    nodes[:] = [Capacity(500, 400)]
    message = refusal({**LOCAL, "cloud": cloud, "workers": "4", "workerMemoryGiB": "2"})
    assert "pulumi config set" in message


def test_a_machine_that_has_not_been_started_is_said_to_need_make_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_KUBECONFIG", str(tmp_path / "none"))
    assert "fix:     make up" in refusal(LOCAL)


def test_too_few_nodes_are_a_warning_since_more_may_come(nodes: list[Capacity]) -> None:
    assert any("room for 4 of 40 workers" in text for text in program({**CAMPUS, "workers": "40"}).warnings)


def test_files_that_a_kubeconfig_names_are_part_of_what_the_provider_gets(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("certificate")
    path = tmp_path / "other"
    path.write_text(KUBECONFIG.replace("certificate-authority-data: Y2E=", "certificate-authority: ca.crt"))
    recording = program({**CAMPUS, "kubeconfig": str(path)})
    assert "Y2VydGlmaWNhdGU=" in recording.one("pulumi:providers:kubernetes").inputs["kubeconfig"]


def test_a_missing_exec_plugin_is_named_with_its_hint(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text(
        KUBECONFIG.replace("token: the-token-of-the-cluster", "exec: {command: no-such-plugin, installHint: get it}")
    )
    message = refusal({**CAMPUS, "kubeconfig": str(path)})
    assert "'no-such-plugin', which is not installed" in message
    assert "fix:     get it" in message


@pytest.mark.parametrize("content", ["", "just text", "{unclosed", "\x00"])
def test_what_is_no_kubeconfig_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other"
    path.write_text(content)
    assert "kubeconfig" in refusal({**CAMPUS, "kubeconfig": str(path)})


def test_the_program_gives_no_warning_in_update_and_preview() -> None:
    for config in (LOCAL, CAMPUS):
        assert program(config).warnings == []
        assert program(config, preview=True).warnings == []


IMPORTS = """
import json, sys
sys.path.insert(0, {root!r})
from tests.unit.cloud_mocks import run
try:
    run({config!r}, {{}}, lambda *args: {{}}, stack_name="dev")
except Exception as error:
    print(error, file=sys.stderr)
print(json.dumps([name for name in sys.modules if name.startswith("pulumi_")]))
"""


@pytest.mark.parametrize("config", [LOCAL, CAMPUS])
def test_a_cluster_that_is_there_imports_the_sdk_of_no_cloud(config: dict[str, Any]) -> None:
    code = IMPORTS.format(root=str(ROOT), config=config)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    imported = {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert imported == {"pulumi_kubernetes", "pulumi_random"}, done.stderr
