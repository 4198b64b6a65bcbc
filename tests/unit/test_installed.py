"""`future-kubernetes connect --namespace`: a release that Helm installed, with a program in kubectl's place."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from cli import connect
from cli.installed import installed
from cli.main import main
from common.errors import UserError

KUBECTL = """#!/bin/sh
for word; do case $word in --kubeconfig=*|--namespace=team) ;; *) asked="$asked $word" ;; esac; done
case $asked in
  " get deployments --selector=LABELS --output=json")
    cat FOLDER/deployments ;;
  " get deployment/lab-scheduler --output=json") cat FOLDER/deployment ;;
  " get secret/login --output=json") cat FOLDER/secret ;;
  *) echo "Error from server (Forbidden): $asked" >&2; exit 1 ;;
esac
"""


def deployment(release: str, fullname: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": release}
    return {"metadata": {"name": f"{fullname}-scheduler", "labels": labels}}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with what this kubectl answers: one release."""
    program = tmp_path / "bin/kubectl"
    program.parent.mkdir()
    labels = "app.kubernetes.io/name=future-kubernetes,app.kubernetes.io/component=scheduler"
    program.write_text(KUBECTL.replace("FOLDER", str(tmp_path)).replace("LABELS", labels))
    program.chmod(0o755)
    (tmp_path / "deployments").write_text(json.dumps({"items": [deployment("r", "lab")]}))
    env = [{"name": "FUTURE_KUBERNETES_PATH", "value": "/team/r/"}]
    pod = {"containers": [{"env": env}], "volumes": [{"name": "secret", "secret": {"secretName": "login"}}]}
    (tmp_path / "deployment").write_text(json.dumps({"spec": {"template": {"spec": pod}}}))
    password = base64.b64encode(b"the secret word").decode()
    (tmp_path / "secret").write_text(json.dumps({"data": {"password": password}}))
    (tmp_path / "kubeconfig").write_text("")
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", str(program.parent))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return tmp_path


def test_only_release_of_a_namespace_is_found_with_its_password(cluster: Path) -> None:
    found = installed("team", "", with_password=True)
    assert (found.name, found.release) == ("r", "lab")
    assert found.outputs == {"url": "http://localhost/team/r/", "password": "the secret word"}
    assert found.title == "release 'r' in namespace 'team'"
    assert found.password_command == "future-kubernetes connect --namespace team --release r --password"
    assert f"--kubeconfig={cluster}/kubeconfig" in found.kubectl.command("get")
    (cluster / "secret").unlink()
    assert "password" not in installed("team", "r", with_password=False).outputs, "it is not asked for"


def test_the_command_connects_to_it(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(connect, "connect", lambda stack, port, **how: asked.append((stack.title, port, how)))
    assert main(["connect", "--namespace", "team", "--port", "9000", "--no-browser"]) == 0
    assert asked == [("release 'r' in namespace 'team'", 9000, {"browser": False, "show_password": False})]


@pytest.mark.parametrize(
    ("releases", "given", "said"),
    [
        ([], "", "namespace 'team' has no release of this chart"),
        ([("r", "lab"), ("q", "q")], "", "has the releases q, r.\nFix: --release NAME"),
        ([("r", "lab")], "s", "has no release 's' of this chart; it has r"),
    ],
)
def test_what_is_not_there_is_named_with_what_there_is(
    cluster: Path, releases: list[tuple[str, str]], given: str, said: str
) -> None:
    (cluster / "deployments").write_text(json.dumps({"items": [deployment(*each) for each in releases]}))
    with pytest.raises(UserError, match="\nFix: ") as error:
        installed("team", given, with_password=False)
    assert said in str(error.value)


def test_a_kubeconfig_or_a_right_that_is_missing_is_named(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cluster / "deployments").unlink()
    with pytest.raises(UserError, match=r"(?s)'team' cannot be read: cat: .*get, list services and deployments"):
        installed("team", "", with_password=False)
    for text, why in (("a:b", "names several files"), (str(cluster / "none"), "is no file")):
        monkeypatch.setenv("KUBECONFIG", text)
        with pytest.raises(UserError, match=f"(?s){why}.*kubectl config view --flatten"):
            installed("team", "", with_password=False)


@pytest.mark.parametrize("words", [["--release", "r"], ["gke-team", "--namespace", "team"]])
def test_options_that_contradict_each_other_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", *words]) != 0
    assert "Fix: " in capsys.readouterr().err
