"""The stand-in for the Pulumi engine: what it creates, keeps, recovers and reports."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import pytest
from pulumi.runtime import mocks, rpc

from common.errors import UserError
from common.paths import REPO
from common.private_files import write_private
from local import stack_config
from local.standin import collect
from tests.unit.standin_machine import IMAGE, OTHER_IMAGE, Machine, Up, counts, machine, pod, standin

__all__ = ["machine", "standin"]


def test_up_creates_every_resource_and_up_again_changes_nothing(machine: Machine, standin: Up) -> None:
    status, said = standin()
    assert status == 0, said
    assert "not Pulumi" in said
    assert counts(said) == {"created": 3, "updated": 0, "deleted": 0, "unchanged": 0}
    assert machine.objects() == {"Namespace.future-dev", "future-dev.Secret.future-dev-auth"}
    assert machine.values()["image"] == IMAGE
    before = machine.state.read_text()
    status, said = standin()
    assert (status, counts(said)) == (0, {"created": 0, "updated": 0, "deleted": 0, "unchanged": 3})
    assert len(machine.calls("helm", "upgrade")) == 1
    assert len(machine.calls("kubectl", "apply")) == 2
    assert machine.state.read_text() == before


def test_another_image_updates_only_the_release_and_keeps_the_secrets(machine: Machine, standin: Up) -> None:
    standin()
    secret = machine.secret()
    status, said = standin(image=OTHER_IMAGE)
    assert (status, counts(said)["updated"], counts(said)["unchanged"]) == (0, 1, 2)
    assert machine.values()["image"] == OTHER_IMAGE
    assert machine.secret() == secret
    assert (len(secret["password"]), len(secret["token"])) == (16, 48)


def test_two_machines_draw_different_secrets(machine: Machine, standin: Up) -> None:
    standin()
    first = machine.secret()
    machine.state.unlink()
    standin()
    assert machine.secret()["password"] != first["password"]
    assert machine.secret()["token"] != first["token"]


def test_random_password_has_length_and_alphabet_of_its_inputs() -> None:
    only_special = {"length": 200, "overrideSpecial": "ab", "lower": False, "upper": False, "numeric": False}
    assert set(collect.draw(only_special)) == {"a", "b"}
    assert len(collect.draw(only_special)) == 200
    lower_and_digits = collect.draw({"length": 400, "special": False, "upper": False})
    assert set(lower_and_digits) <= set(ascii_lowercase + digits)


def test_generated_secret_of_pulumi_random_is_kept_and_marked() -> None:
    drawn: dict[str, str] = {}
    for _ in range(2):
        args = mocks.MockResourceArgs("random:index/randomPassword:RandomPassword", "token", {"length": 48.0})
        _, found = collect.Program(drawn).new_resource(args)
        assert rpc.is_rpc_secret(found["result"])
        assert collect.plain(found["result"]) == drawn["token"]
    assert list(drawn) == ["token"]
    assert len(drawn["token"]) == 48


def test_no_secret_is_in_arguments_values_or_on_screen(machine: Machine, standin: Up) -> None:
    shown = standin()[1] + standin(image=OTHER_IMAGE)[1]
    calls = (machine.home / "calls").read_text()
    for secret in (*machine.secret().values(), "token-of-the-cluster"):
        assert secret not in shown
        assert secret not in calls
        assert secret not in (machine.home / "values.json").read_text()


def test_state_is_the_only_file_with_secrets_and_private(machine: Machine, standin: Up) -> None:
    standin()
    assert stat.S_IMODE(machine.state.stat().st_mode) == 0o600
    assert sorted(path.name for path in machine.state.parent.iterdir()) == ["standin.json", "standin.lock"]


def test_outputs_are_those_of_the_last_run(machine: Machine, standin: Up) -> None:
    status, said = standin("outputs")
    assert status == 1
    assert "fix: make up" in said
    standin()
    found = json.loads(standin("outputs")[1])
    assert found["password"] == machine.secret()["password"]
    assert found["namespace"] == "future-dev"


def test_deleted_object_is_created_again(machine: Machine, standin: Up) -> None:
    standin()
    (machine.home / "objects" / "future-dev.Secret.future-dev-auth").unlink()
    status, said = standin()
    assert (status, counts(said)["updated"]) == (0, 1)
    assert "future-dev.Secret.future-dev-auth" in machine.objects()


def test_resource_that_left_the_program_is_deleted(machine: Machine, standin: Up) -> None:
    standin()
    status, said = standin("up", "createNamespace=false")
    assert (status, counts(said)["deleted"]) == (0, 1)
    assert machine.objects() == {"future-dev.Secret.future-dev-auth"}


def test_another_namespace_removes_what_was_in_the_old_one(machine: Machine, standin: Up) -> None:
    standin()
    status, said = standin("up", "namespace=elsewhere")
    assert status == 0, said
    assert (counts(said)["created"], counts(said)["deleted"]) == (3, 3)
    assert [call[2] for call in machine.calls("helm", "uninstall")] == ["future-dev"]
    assert machine.objects() == {"Namespace.elsewhere", "elsewhere.Secret.future-dev-auth"}
    assert counts(standin("up", "namespace=elsewhere")[1])["unchanged"] == 3


def test_down_removes_newest_first_and_leaves_no_state(machine: Machine, standin: Up) -> None:
    standin()
    (machine.home / "calls").unlink()
    assert standin("down")[0] == 0
    assert machine.objects() == set()
    assert not machine.release.exists()
    every = [json.loads(line) for line in (machine.home / "calls").read_text().splitlines()]
    order = [next(word for word in ("uninstall", "Secret", "Namespace") if word in call) for call in every]
    assert order == ["uninstall", "Secret", "Namespace"]
    assert not machine.state.exists()
    assert standin("down")[0] == 0


def test_missing_image_is_reported_quickly_and_the_next_up_finishes(machine: Machine, standin: Up) -> None:
    machine.mode("hang")
    machine.pods(pod("ErrImagePull", 'failed to pull "nope": not found'))
    status, said = standin()
    assert status == 1
    assert 'pod future-dev-worker-1: ErrImagePull: failed to pull "nope": not found' in said
    assert not machine.release.exists(), "a failed install was left behind"
    secret = machine.secret()
    machine.mode("ready")
    machine.pods()
    status, said = standin()
    assert status == 0, said
    assert machine.secret() == secret


def test_crashing_container_is_reported_with_the_end_of_its_log(machine: Machine, standin: Up) -> None:
    machine.mode("hang")
    machine.pods(pod("CrashLoopBackOff", restarts=2))
    status, said = standin()
    assert status == 1
    assert "ended 2 times, last with exit code 3" in said
    assert "the last thing it said" in said


def test_failed_upgrade_is_rolled_back(machine: Machine, standin: Up) -> None:
    standin()
    machine.mode("refuse")
    status, said = standin(image=OTHER_IMAGE)
    assert status == 1
    assert "context deadline exceeded" in said
    assert len(machine.calls("helm", "rollback")) == 1
    machine.mode("ready")
    status, said = standin(image=OTHER_IMAGE)
    assert (status, counts(said)["updated"]) == (0, 1)


@pytest.mark.parametrize("stuck", ["pending-install", "pending-upgrade", "failed"])
def test_release_of_a_killed_run_is_recovered(machine: Machine, standin: Up, stuck: str) -> None:
    history = ["deployed", stuck] if stuck == "pending-upgrade" else [stuck]
    machine.release.write_text(json.dumps({"status": stuck, "history": history}))
    status, said = standin()
    assert status == 0, said
    assert json.loads(machine.release.read_text())["status"] == "deployed"


def test_ctrl_c_while_helm_waits_is_finished_by_next_up(machine: Machine, standin: Up) -> None:
    machine.mode("hang")
    process = subprocess.Popen(
        [sys.executable, "-m", "local", "standin", "up", f"--config=image={IMAGE}"],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    for _ in range(600):
        if (machine.home / "hanging").exists():
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "continues from here" in said
    assert not machine.release.exists(), "a half-made install was left behind"
    secret = machine.secret()
    machine.mode("ready")
    status, said = standin()
    assert (status, counts(said)["unchanged"]) == (0, 2)
    assert machine.secret() == secret


def test_down_after_a_failed_first_up_removes_what_it_began(machine: Machine, standin: Up) -> None:
    machine.mode("refuse")
    assert standin()[0] == 1
    assert machine.objects()
    assert standin("down")[0] == 0
    assert machine.objects() == set()


@pytest.mark.parametrize("content", ["{", "[]", '{"resources": 1}'])
def test_unreadable_state_is_reported_and_not_overwritten(machine: Machine, standin: Up, content: str) -> None:
    machine.state.parent.mkdir(parents=True)
    machine.state.write_text(content)
    status, said = standin()
    assert status == 1
    assert str(machine.state) in said
    assert machine.state.read_text() == content


def test_full_disk_keeps_the_old_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_private(tmp_path / "state.json", "old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_private(tmp_path / "state.json", "new")
    assert (tmp_path / "state.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_wrong_settings_are_reported_before_anything_is_created(machine: Machine, standin: Up) -> None:
    status, said = standin("up", "workers=four", "wokers=3")
    assert status == 1
    assert "2 settings are wrong in stack 'dev'" in said
    assert "did you mean workers?" in said
    assert "Traceback" not in said
    assert not machine.state.exists()


def test_image_by_tag_is_refused_with_the_fix(standin: Up) -> None:
    status, said = standin(image="127.0.0.1:5000/future-kubernetes:1.0")
    assert status == 1
    assert "cannot call docker:index/getRegistryImage" in said
    assert "an image by digest" in said


def test_missing_program_is_named(standin: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_BIN", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    status, said = standin()
    assert status == 1
    assert "kubectl or helm is neither in" in said


def test_unreachable_cluster_is_reported_with_its_address(machine: Machine, standin: Up) -> None:
    (machine.home / "unreachable").touch()
    status, said = standin()
    assert status == 1
    assert "https://10.0.0.1:6443 cannot be used: The connection to the server was refused" in said
    assert "Traceback" not in said


def test_password_comes_from_the_environment_and_never_from_an_argument(
    machine: Machine, standin: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "can be read by every user" in standin("up", "password=long-enough-1")[1]
    monkeypatch.setenv(stack_config.PASSWORD_VARIABLE, "long-enough-1")
    assert standin()[0] == 0
    assert machine.secret()["password"] == "long-enough-1"
