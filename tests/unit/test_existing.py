"""Clusters that exist already: reading the kubeconfig, room on the nodes, and the commands for people."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.clouds.allocatable import Allocatable
from tests.unit.existing_clusters import CAMPUS, KUBECONFIG, LOCAL, nodes, program, refusal, values

__all__ = ["nodes"]
pytestmark = pytest.mark.usefixtures("nodes")


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


def test_kubeconfig_that_the_settings_name_is_in_the_commands(tmp_path: Path) -> None:
    named = tmp_path / "a folder" / "config"
    named.parent.mkdir()
    named.write_text(KUBECONFIG)
    outputs = program({**CAMPUS, "kubeconfig": str(named)}).outputs
    for name in ("portForward", "shell", "kubeconfigCommand"):
        assert outputs[name][0].startswith(f"kubectl --kubeconfig '{named}' "), name


def test_commands_without_kubectl_on_path_name_that_of_make_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("config", [CAMPUS, LOCAL], ids=lambda config: config["cloud"])
def test_monitoring_without_the_prometheus_operator_is_refused_before_creation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, str]
) -> None:
    asked = tmp_path / "asked"
    own = tmp_path / "kubectl"
    own.write_text(
        f"""#!/bin/sh
echo "$@" > {asked}
if [ -e {tmp_path}/operator ]; then echo '{{}}'; exit; fi
echo 'Error from server (NotFound): the server could not find the requested resource' >&2
exit 1
"""
    )
    own.chmod(0o755)
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", str(tmp_path))
    said = refusal({**config, "monitoring": "true"})
    assert "monitoring is true, and the cluster at https://10.0.0.1:6443 does not know" in said
    assert "pulumi config set monitoring false" in said
    assert asked.read_text().endswith("get --raw /apis/monitoring.coreos.com/v1\n")
    assert values(program(config))["monitoring"] == {"enabled": False}
    (tmp_path / "operator").touch()
    assert values(program({**config, "monitoring": "true"}))["monitoring"] == {"enabled": True}
    # An answer of another kind refuses nothing: the chart checks again.
    own.write_text("#!/bin/sh\necho 'error: You must be logged in' >&2\nexit 1\n")
    assert values(program({**config, "monitoring": "true"}))["monitoring"] == {"enabled": True}


def test_worker_on_this_machine_requests_the_cores_of_the_setting(nodes: list[Allocatable]) -> None:
    nodes[:] = [Allocatable(8000, 16000)]
    requests = values(program({**LOCAL, "workerCpu": "1.5"}))["worker"]["resources"]["requests"]
    assert requests["cpu"] == "1500m"


@pytest.mark.parametrize(
    ("node", "worker"),
    [
        (Allocatable(16000, 3 * 1024 + 200), {"workerMemoryGiB": "1"}),
        (Allocatable(2500, 65536), {"workerCpu": "0.9"}),
    ],
)
def test_this_machine_keeps_room_for_the_control_plane(
    node: Allocatable, worker: dict[str, str], nodes: list[Allocatable]
) -> None:
    """The control plane takes 1 GiB and 0.3 cores; with these two workers would fit."""
    nodes[:] = [node]
    assert "there is room for 1" in refusal({**LOCAL, "workers": "2", **worker})
    program({**LOCAL, "workers": "1", **worker})


def test_absent_context_is_refused_with_those_that_exist() -> None:
    message = refusal({**CAMPUS, "context": "third"})
    assert "allowed: first, second" in message
    assert "pulumi config set context first" in message


def test_the_second_context_is_the_second_cluster() -> None:
    recording = program({**CAMPUS, "context": "second"})
    kubeconfig = json.loads(recording.one("pulumi:providers:kubernetes").inputs["kubeconfig"])
    assert kubeconfig["clusters"][0]["cluster"]["server"] == "https://10.0.0.2:6443"
    assert len(kubeconfig["clusters"]) == 1, "credentials of other clusters stay out of the state"


@pytest.mark.parametrize("cloud", ["local", "kubeconfig"])
def test_a_node_too_small_is_said_before_anything_is_made(cloud: str, nodes: list[Allocatable]) -> None:
    nodes[:] = [Allocatable(500, 400)]
    message = refusal({**LOCAL, "cloud": cloud, "workers": "4", "workerMemoryGiB": "2"})
    assert "pulumi config set" in message


def test_machine_that_has_not_been_started_needs_make_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_KUBECONFIG", str(tmp_path / "none"))
    assert "fix:     make up" in refusal(LOCAL)


def test_too_few_nodes_are_a_warning_since_more_may_come(nodes: list[Allocatable]) -> None:
    assert any("room for 4 of 40 workers" in text for text in program({**CAMPUS, "workers": "40"}).warnings)


def test_files_that_a_kubeconfig_names_reach_the_provider(tmp_path: Path) -> None:
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
