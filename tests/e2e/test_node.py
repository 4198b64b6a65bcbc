"""The node itself: what it does not touch, what it leaves behind, and how it comes back after a crash."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from common.errors import UserError
from common.paths import REPO, state_dir
from common.patience import patience
from local import cgroups, cluster, machine

pytestmark = pytest.mark.timeout(300)

NAME = "passing"


@pytest.fixture
def node(own_state: Path) -> Iterator[cluster.Node]:
    cluster.stop(NAME)
    yield cluster.start(NAME)
    cluster.stop(NAME)


OTHER_TESTS = re.compile(r"\bfk\d+-|/run/netns|198\.(18|19)\.")
"""Links that tests/broker makes and cuts, perhaps at the same time."""


def footprint() -> dict[str, object]:
    """State of the machine: mounts, network devices, routes, firewall rules, settings and cgroups."""

    def output(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    return {
        "mounts": others_aside(Path("/proc/mounts").read_text().splitlines()),
        "links": others_aside(link["ifname"] for link in json.loads(output("ip", "-j", "link") or "[]")),
        "routes": others_aside(output("ip", "route").splitlines()),
        "rules": [
            Path(f"/proc/net/{table}").read_text()
            for table in ("ip_tables_names",)
            if Path(f"/proc/net/{table}").exists()
        ],
        "settings": [
            Path("/proc/sys", name).read_text()
            for name in ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")
        ],
        "cgroups": sorted(map(str, cgroups.folders(NAME))),
    }


def others_aside(lines: Iterable[str]) -> list[str]:
    return sorted(line for line in lines if not OTHER_TESTS.search(line))


def test_nothing_of_a_removed_cluster_is_left_on_the_machine(own_state: Path) -> None:
    cluster.stop(NAME)
    before = footprint()
    node = cluster.start(NAME)
    during = footprint()
    assert during.pop("cgroups")
    assert during == {key: value for key, value in before.items() if key != "cgroups"}
    cluster.stop(NAME)
    assert footprint() == before
    assert not state_dir(NAME).exists()
    assert not Path(f"/proc/{node.pid}").exists()
    assert cluster.stop(NAME) is False


def test_a_crashed_node_comes_back_with_what_was_in_it(node: cluster.Node) -> None:
    node.kubectl("create", "configmap", "kept", "--from-literal=key=value")
    os.kill(node.pid, 9)
    deadline = time.monotonic() + patience(30)
    while cluster.running(NAME) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = cluster.start(NAME)
    assert again.pid != node.pid
    assert again.kubectl("get", "configmap", "kept", "-o=jsonpath={.data.key}").stdout == "value"


STEPS = ("preparing the node", "the API server", "containerd", "the node", "DNS")
KILLED_AT = """
import os, signal, sys
from common.progress import Step
from local import cluster

note = Step.note
def killed(self, text):
    note(self, text)
    if text.endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
Step.note = killed
cluster._ready, ready = lambda node, path: seen("the API server") and ready(node, path), cluster._ready
waited = set()
def seen(what):
    first, _ = what not in waited, waited.add(what)
    return not first
for name, what in (("_import_pause_image", "containerd"), ("_node_is_ready", "the node"), ("_dns_answers", "DNS")):
    done = getattr(cluster, name)
    setattr(cluster, name, lambda node, what=what, done=done: seen(what) and done(node))
cluster.start(sys.argv[1])
"""
"""A start that is killed in one of its waits; each is reached at least once."""


def test_start_killed_at_any_step_is_finished_by_the_next(own_state: Path) -> None:
    cluster.stop(NAME)
    before = footprint()
    for step in STEPS:
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT, NAME, step], cwd=REPO, capture_output=True, text=True, check=False
        )
        assert done.returncode == -9, (step, done.stdout + done.stderr)
    node = cluster.start(NAME)
    node.kubectl("get", "nodes")
    cluster.stop(NAME)
    assert footprint() == before
    assert not re.search(rf"local.shim {NAME}\b|{own_state}/{NAME}", processes_of_the_machine())


def test_a_killed_start_leaves_nothing_behind_for_make_down(own_state: Path) -> None:
    cluster.stop(NAME)
    before = footprint()
    subprocess.run([sys.executable, "-c", KILLED_AT, NAME, STEPS[0]], cwd=REPO, capture_output=True, check=False)
    assert cluster.stop(NAME)
    assert footprint() == before
    assert not re.search(rf"local.shim {NAME}\b|{own_state}/{NAME}", processes_of_the_machine())


def processes_of_the_machine() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_a_service_of_the_node_that_dies_is_started_again(node: cluster.Node) -> None:
    before = node.run("cat", "/run/node/services/coredns").stdout
    node.run("busybox", "kill", "-9", before)
    deadline = time.monotonic() + patience(30)
    while (now := node.run("cat", "/run/node/services/coredns").stdout) in (before, "0"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    node.run("busybox", "kill", "-0", now)


def test_a_start_while_it_runs_changes_nothing(node: cluster.Node) -> None:
    assert cluster.start(NAME) == node


def weights(unit: str) -> dict[str, int]:
    return {
        file.parent.name: int(file.read_text())
        for folder in cgroups.folders(NAME)
        for file in [folder / unit, *folder.glob(f"*/{unit}")]
        if file.exists()
    }


def test_the_nodes_services_leave_the_processors_to_the_pods_first(node: cluster.Node) -> None:
    unit, usual = ("cpu.weight", 100) if cgroups.is_v2() else ("cpu.shares", 1024)
    deadline = time.monotonic() + patience(30)
    while not (now := weights(unit)) or now["kubepods"] < 4 * now["services"]:
        assert time.monotonic() < deadline, now
        time.sleep(0.2)
    whole = {name: weight for name, weight in now.items() if name not in ("kubepods", "services")}
    assert list(whole.values()) == [usual], (
        "the machine's other work, and the IDE's way in, would wait for busy workers"
    )
    for service in ("kubelet", "containerd", "kube-apiserver"):
        pid = node.run("cat", f"/run/node/services/{service}").stdout
        groups = node.run("cat", f"/proc/{pid}/cgroup").stdout.splitlines()
        own = "" if cgroups.is_v2() else f"/future-kubernetes-{NAME}"
        assert any(line.endswith(f"{own}/services") for line in groups), groups


def test_start_that_cannot_succeed_quotes_the_services_error_at_once(
    own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.stop(NAME)
    state_dir(NAME).mkdir(parents=True)
    # A file where etcd wants its folder of data.
    (state_dir(NAME) / "var").mkdir()
    (state_dir(NAME) / "var/etcd").mkdir()
    (state_dir(NAME) / "var/etcd/member").write_text("not a folder")
    try:
        with pytest.raises(UserError, match=r"(?s)cannot start: etcd ended \d+ times: .*not a directory.*fix:"):
            cluster.start(NAME)
    finally:
        cluster.stop(NAME)


def test_start_without_root_is_refused_and_suggests_an_existing_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.machine.os.geteuid", lambda: 1000)
    with pytest.raises(UserError, match="you are not root") as refused:
        machine.preflight()
    assert "cloud kubeconfig" in str(refused.value)


def test_a_full_disk_is_said_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 100 << 20

    monkeypatch.setattr("local.machine.shutil.disk_usage", lambda _path: Full)
    with pytest.raises(UserError, match=r"0\.1 GiB free"):
        machine.preflight()
