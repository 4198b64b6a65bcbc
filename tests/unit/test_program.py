"""The whole program under the SDK's mocks: what it registers, how that is wired, and what stays secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cloud_mocks import ROOT, Recording, Refused, is_secret, run
from tests.unit.existing_clusters import CAMPUS, LOCAL, nodes, program, refusal, values

__all__ = ["nodes"]
pytestmark = pytest.mark.usefixtures("nodes")


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
def test_every_object_has_component_as_parent_and_clusters_provider(config: dict[str, Any]) -> None:
    recording = program(config)
    provider = recording.one("pulumi:providers:kubernetes")
    release = recording.one("index:Release")
    for resource in recording.resources:
        if resource.type.startswith("kubernetes:"):
            assert resource.parent == release.urn
            assert resource.provider.startswith(provider.urn)
        assert not resource.protect
        assert not resource.aliases


def test_release_waits_for_the_secret_and_goes_before_namespace() -> None:
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
    for each in program({**LOCAL, "environment": {"A": "b"}}).all("core/v1:Secret"):
        assert each.secret_outputs == {"data", "stringData"}, "the cluster returns both, and the state would show them"
    assert is_secret(recording.one("pulumi:providers:kubernetes").sent["kubeconfig"])
    hidden = {name for name, (_, secret) in recording.outputs.items() if secret}
    assert hidden == {"password", "kubeconfig"}


def test_password_is_only_in_its_own_output() -> None:
    given = "correct horse battery"
    recording = program({**LOCAL, "password": given})
    for resource in recording.resources:
        assert given not in json.dumps(resource.sent) or resource.type.endswith("v1:Secret")
    assert [name for name, (value, _) in recording.outputs.items() if given in str(value)] == ["password"]
    assert recording.all("RandomPassword") == recording.all("RandomPassword", "token")


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


def test_image_by_digest_asks_nobody_and_tag_is_pinned() -> None:
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
        "workers", "maxWorkers", "nodes", "nodeShell", "hourlyCost", "copyTo", "copyFrom",
        "shell",
    }  # fmt: skip
    assert recording.outputs["username"] == ("rstudio", False)
    assert recording.outputs["namespace"] == ("future-dev", False)
    assert recording.outputs["workers"] == (4, False)
    assert recording.outputs["url"] == ("http://localhost:8787", False)
    below = program({**LOCAL, "chartValues": '{"ingress": {"path": "/team/r/"}}'})
    assert below.outputs["url"] == ("http://localhost:8787/team/r", False)
    assert values(below)["ingress"]["path"] == "/team/r/"
    services = (ROOT / "chart" / "templates" / "services.yaml").read_text()
    assert recording.outputs["portForward"][0].endswith(" service/future-dev-scheduler 8787:8787")
    assert recording.outputs["shell"][0].endswith(" exec --stdin --tty deployment/future-dev-scheduler -- bash")
    assert "{name: ide, port: 8787," in services


@pytest.mark.parametrize("name", ["portForward", "copyTo", "copyFrom", "shell"])
def test_command_among_the_outputs_is_accepted_by_a_shell(name: str) -> None:
    for config in (LOCAL, CAMPUS):
        command, _ = program(config).outputs[name]
        assert command.startswith(("kubectl ", "/"))
        assert "--namespace future-dev" in command
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_commands_among_the_outputs_name_only_the_stacks_pods() -> None:
    outputs = program(CAMPUS).outputs
    kubectl = "kubectl --context first --namespace future-dev"
    pods = "--selector app.kubernetes.io/instance=future-dev,component=scheduler"
    pod = f"\"$({kubectl} get pods {pods} --output jsonpath='{{.items[0].metadata.name}}')\""
    assert {name: outputs[name][0] for name in ("portForward", "shell", "copyTo", "copyFrom")} == {
        "portForward": f"{kubectl} port-forward service/future-dev-scheduler 8787:8787",
        "shell": f"{kubectl} exec --stdin --tty deployment/future-dev-scheduler -- bash",
        "copyTo": f"{kubectl} cp MY_FILE {pod}:/home/rstudio/",
        "copyFrom": f"{kubectl} cp {pod}:/home/rstudio/MY_FILE MY_FILE",
    }


@pytest.mark.parametrize(
    ("name", "copied"),
    [("copyTo", "MY_FILE pod-1:/home/rstudio/"), ("copyFrom", "pod-1:/home/rstudio/MY_FILE MY_FILE")],
)
def test_file_is_copied_between_here_and_the_schedulers_home(name: str, copied: str, tmp_path: Path) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("""#!/bin/sh
case "$*" in
  *" get pods --selector app.kubernetes.io/instance=future-dev,component=scheduler "*) echo pod-1 ;;
  *) echo "$@" ;;
esac
""")
    kubectl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command, _ = program(CAMPUS).outputs[name]
    ran = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip().endswith(f"--namespace future-dev cp {copied}")


def test_public_host_is_the_url_and_address_an_output() -> None:
    recording = program({**LOCAL, "host": "r.example.org"})
    assert recording.outputs["url"][0] == "https://r.example.org"
    assert recording.outputs["hostAddress"][0] == "unknown"
    assert values(recording)["host"] == "r.example.org"


def test_files_are_copied_through_the_volume_that_outlives_pods() -> None:
    outputs = program(LOCAL).outputs
    assert outputs["copyTo"][0].endswith(":/home/rstudio/")
    assert " cp MY_FILE " in outputs["copyTo"][0]
    assert outputs["copyFrom"][0].endswith(":/home/rstudio/MY_FILE MY_FILE")
    assert "mountPath: /home/rstudio" in (ROOT / "chart" / "templates" / "scheduler-deployment.yaml").read_text()


def test_wrong_settings_are_refused_before_anything_is_made() -> None:
    assert "2 settings are wrong" in refusal({**LOCAL, "workers": "0", "ide": "emacs"})


def test_the_program_gives_no_warning_in_update_and_preview() -> None:
    for config in (LOCAL, CAMPUS):
        assert program(config).warnings == []
        assert program(config, preview=True).warnings == []


IMPORTS = """
import json, sys
from tests.unit.cloud_mocks import run
try:
    run({config!r}, {{}}, lambda *args: {{}}, stack_name="dev")
except Exception as error:
    print(error, file=sys.stderr)
print(json.dumps([name for name in sys.modules if name.startswith("pulumi_")]))
"""


@pytest.mark.parametrize("config", [LOCAL, CAMPUS])
def test_existing_cluster_imports_the_sdk_of_no_cloud(config: dict[str, Any]) -> None:
    code = IMPORTS.format(config=config)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    imported = {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert imported == {"pulumi_kubernetes", "pulumi_random"}, done.stderr
