"""`make up` by the Pulumi CLI: a program in its place writes down its calls, and treats files as the CLI does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from local import pulumi_cli
from local.cluster import Node
from local.errors import LocalError
from local.paths import REPO

# As the CLI does it in the folder that it runs in: making a stack writes a salt into its file.
FAKE_PULUMI = """#!/bin/sh
echo "$(basename "$PWD"): $*" >> "$CALLS"
env | grep ^PULUMI_ | sort > "$CALLS.environment"
case "$1 $2" in
  "stack select") grep -q encryptionsalt "Pulumi.$3.yaml" || echo "encryptionsalt: v1:salt" >> "Pulumi.$3.yaml" ;;
  "stack output") echo '{"workers": 2}' ;;
  "config set") cat > "$CALLS.password" ;;
  "up "*) [ -z "$UP_FAILS" ] ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "pulumi").write_text(FAKE_PULUMI)
    (programs / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("FUTURE_KUBERNETES_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("FUTURE_KUBERNETES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name in ("FUTURE_KUBERNETES_KUBECONFIG", "FUTURE_KUBERNETES_BIN"):
        monkeypatch.setenv(name, "set here so that it is restored")
    monkeypatch.delenv("FUTURE_KUBERNETES_PASSWORD", raising=False)
    (tmp_path / "state/mine").mkdir(parents=True)
    return tmp_path


def engine(machine: Path) -> pulumi_cli.StackEngine:
    node = Node("mine", 1, machine / "state/mine/kubeconfig", machine / "programs")
    found = pulumi_cli.engine_for(node, "dev")
    assert isinstance(found, pulumi_cli.PulumiEngine)
    return found


def calls(machine: Path) -> list[str]:
    return (machine / "calls").read_text().splitlines()


def environment(machine: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in (machine / "calls.environment").read_text().splitlines())
    return {name: value for name, _, value in pairs}


def test_the_projects_own_file_stays_as_it_is_from_up_to_down(machine: Path) -> None:
    before = (REPO / "Pulumi.dev.yaml").read_bytes()
    assert engine(machine).up("dev", {"workers": "2", "image": "i@sha256:0"}) == {"workers": 2}
    engine(machine).forget("dev")
    assert (REPO / "Pulumi.dev.yaml").read_bytes() == before
    assert "mine: stack select dev --create --non-interactive" in calls(machine)


def test_the_program_runs_in_the_project_with_the_copy_of_the_config(machine: Path) -> None:
    engine(machine).up("dev", {"workers": "2", "image": "i@sha256:0"})
    file = machine / "state/mine/Pulumi.dev.yaml"
    assert f"{REPO.name}: up --stack dev --config-file {file} --yes --skip-preview" in calls(machine)
    assert yaml.safe_load(file.read_text())["config"] == {
        "future-kubernetes:cloud": "local",
        "future-kubernetes:ide": "jupyterlab",
        "future-kubernetes:image": "i@sha256:0",
        "future-kubernetes:workers": "2",
    }


def test_secrets_stay_encrypted_by_the_salt_of_the_first_run(machine: Path) -> None:
    engine(machine).up("dev", {"workers": "2"})
    engine(machine).up("dev", {"workers": "3"})
    file = yaml.safe_load((machine / "state/mine/Pulumi.dev.yaml").read_text())
    assert file["encryptionsalt"] == "v1:salt"
    assert file["config"]["future-kubernetes:workers"] == "3"


def test_whatever_it_is_logged_in_to_the_state_is_the_clusters_and_its_passphrase_private(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "https://api.pulumi.com")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "of another stack")
    engine(machine).outputs("dev")
    seen = environment(machine)
    passphrase = Path(seen["PULUMI_CONFIG_PASSPHRASE_FILE"])
    assert seen["PULUMI_BACKEND_URL"] == f"file://{machine}/state/mine/pulumi"
    assert passphrase.stat().st_mode & 0o077 == 0
    assert "PULUMI_CONFIG_PASSPHRASE" not in seen
    drawn = passphrase.read_text()
    engine(machine).outputs("dev")
    assert passphrase.read_text() == drawn


def test_the_password_of_the_environment_goes_by_stdin_into_an_encrypted_setting(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_PASSWORD", "correct horse")
    engine(machine).up("dev", {})
    assert (machine / "calls.password").read_text() == "correct horse"
    assert not any("correct horse" in call for call in calls(machine))
    assert any("config set" in call and "--secret future-kubernetes:password" in call for call in calls(machine))


def test_plugins_of_clouds_that_the_stack_does_not_use_are_not_fetched(machine: Path) -> None:
    engine(machine).outputs("dev")
    assert environment(machine)["PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL"] == "true"


def test_uv_is_found_where_make_put_it(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = machine / "cache/uv-1.2.3/bin/uv"
    uv.parent.mkdir(parents=True)
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    assert shutil.which("uv", path=pulumi_cli._path_with_uv()) == str(uv)
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}{os.environ['PATH']}")
    assert pulumi_cli._path_with_uv() == os.environ["PATH"]


def test_a_failed_up_is_told(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UP_FAILS", "yes")
    with pytest.raises(LocalError, match="pulumi up failed"):
        engine(machine).up("dev", {})


def test_the_lock_of_a_killed_run_is_taken_away_and_that_of_a_living_one_stays(machine: Path) -> None:
    locks = machine / "state/mine/pulumi/.pulumi/locks/organization/future-kubernetes/dev"
    locks.mkdir(parents=True)
    for name, pid in (("gone", 2**30), ("of another program", os.getpid())):
        (locks / f"{name}.json").write_text(json.dumps({"pid": pid}))
    with subprocess.Popen(["sleep", "60"], executable=shutil.copy("/usr/bin/sleep", machine / "pulumi")) as living:
        comm = Path(f"/proc/{living.pid}/comm")  # the kernel wakes the parent before it sets the new name
        while comm.read_text().strip() != "pulumi":
            assert living.poll() is None
            time.sleep(0.01)
        (locks / "living.json").write_text(json.dumps({"pid": living.pid}))
        engine(machine).up("dev", {})
        living.kill()
    assert [lock.name for lock in locks.iterdir()] == ["living.json"]


def test_forgetting_needs_no_cluster_and_no_stack(machine: Path) -> None:
    engine(machine).forget("dev")
    assert not (machine / "calls").exists()


def test_a_stack_of_the_stand_in_stays_with_it(machine: Path) -> None:
    (machine / "state/dev").mkdir()
    (machine / "state/dev/engine-state.json").write_text(json.dumps({}))
    node = Node("mine", 1, machine / "state/mine/kubeconfig", machine / "programs")
    assert isinstance(pulumi_cli.engine_for(node, "dev"), pulumi_cli.StandIn)
