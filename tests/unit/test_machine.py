"""Requirements of the local cluster: modules and control groups, and the reasons to give up a start."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from local import cgroups, cluster, image, machine
from local.node.endings import fatal_line, same

KUBELET = (
    'I1125 16:00:00.100000      12 server.go:1] "Kubelet version"\n'
    'E1125 16:00:01.200000      12 run.go:74] "command failed" err="failed to run Kubelet: invalid configuration: '
    'cgroup [\\"future-kubernetes-dev\\"] has some missing controllers: cpu, cpuset, hugetlb"\n'
)


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            KUBELET,
            'failed to run Kubelet: invalid configuration: cgroup ["future-kubernetes-dev"] has some missing '
            "controllers: cpu, cpuset, hugetlb",
        ),
        ('time="2026-11-25" level=info msg=starting\ntime="2026-11-25" level=fatal msg="no disk"\n', "no disk"),
        ('{"level":"fatal","msg":"failed to listen","error":"port in use"}\n', "failed to listen: port in use"),
        ("starting\npanic: nil map\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:1\n", "panic: nil map"),
        ("one\nlast words\n", "last words"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_sentence_that_says_why_a_service_ended_is_found(log: str, error: str) -> None:
    assert fatal_line(log) == error


def test_errors_that_differ_in_numbers_alone_are_one_error() -> None:
    assert same("listen tcp 127.0.0.1:45: in use (pid 7)", "listen tcp 127.0.0.1:99: in use (pid 12)")
    assert not same("no space left on device", "permission denied")


@pytest.fixture
def run_folder(tmp_path: Path) -> Callable[..., Path]:
    def written(**services: tuple[int, str]) -> Path:
        (tmp_path / "endings").mkdir(exist_ok=True)
        for name, (count, error) in services.items():
            (tmp_path / "endings" / name).write_text(f"{count}\n{error}\n")
        return tmp_path

    return written


def test_three_equal_failures_of_a_service_end_the_wait(
    run_folder: Callable[..., Path],
) -> None:
    error = fatal_line(KUBELET)
    assert machine.hopeless(run_folder(kubelet=(2, error))) == ""
    assert machine.hopeless(run_folder(kubelet=(3, error))) == (
        f"kubelet ended 3 times: {error}\n    fix:     check `cat /sys/fs/cgroup/cgroup.controllers`, "
        "then run `make down && make up`"
    )


@pytest.mark.parametrize(
    "error",
    [
        'failed to initialize CSINode: nodes "node" not found',
        "dial tcp 10.0.2.100:6443: connect: connection refused",
        "validate CRI v1 runtime API for endpoint unix:///run/containerd/containerd.sock",
    ],
)
def test_a_service_that_waits_for_another_is_waited_for(run_folder: Callable[..., Path], error: str) -> None:
    assert machine.hopeless(run_folder(kubelet=(9, error))) == ""
    assert machine.endings(run_folder(kubelet=(9, error))) == [("kubelet", 9, error)]


def test_no_service_has_ended_where_nothing_is_recorded(tmp_path: Path) -> None:
    assert machine.hopeless(tmp_path) == ""


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        ("write /var/lib/etcd/x: no space left on device", "free some disk space"),
        ("inotify_init: too many open files", "sysctl fs.inotify"),
        ("iptables v1.8: can't initialize iptables table `nat': Table does not exist", "modprobe -a nf_tables"),
        ("something new", "make down && make up"),
    ],
)
def test_known_errors_come_with_their_fix(error: str, fix: str) -> None:
    assert fix in machine.fix_for(error)


def test_a_missing_module_is_loaded_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "modprobe").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "modprobe").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(machine, "_has_overlay", calls.exists)
    monkeypatch.setattr(machine, "_has_tun", lambda: True)
    assert machine._missing_features() == []
    assert calls.read_text().split() == ["overlay"]
    assert "Loaded the kernel module overlay" in capsys.readouterr().out


def test_module_that_cannot_be_loaded_is_named_with_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_has_overlay", lambda: False)
    monkeypatch.setattr(machine, "_has_tun", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert all("apt-get install kmod" in reason for reason in machine._missing_features())
    (tmp_path / "modprobe").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "modprobe").chmod(0o755)
    assert len(reasons := machine._missing_features()) == 2
    assert all("distribution's own kernel" in reason or "in a container" in reason for reason in reasons)


def test_a_kernel_without_namespaces_is_told_which_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    exists = Path.exists
    monkeypatch.setattr("local.machine.Path.exists", lambda path: str(path) != "/proc/self/ns/ipc" and exists(path))
    monkeypatch.setattr(machine, "_has_overlay", lambda: True)
    monkeypatch.setattr(machine, "_has_tun", lambda: True)
    assert machine._missing_features() == ["the kernel has no ipc namespaces: use the distribution's own kernel"]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with cgroup v2 and systemd, in a folder."""
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma misc\n")
    (root / "cgroup.subtree_control").write_text("memory pids\n")
    (root / "cgroup.procs").write_text("1\n")
    (tmp_path / "systemd").mkdir()
    monkeypatch.setattr(cgroups, "ROOT", root)
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path / "systemd")
    monkeypatch.setattr(cgroups, "is_v2", lambda: True)
    monkeypatch.setattr("local.cgroups.shutil.which", lambda name: f"/usr/bin/{name}")
    return root


def test_what_is_mounted_at_the_top_decides_the_version() -> None:
    assert cgroups.is_v2("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nnone /sys/fs/cgroup/net_cls cgroup rw 0 0\n")
    hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"
    assert not cgroups.is_v2(hybrid + "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n")


def test_with_systemd_the_node_gets_a_delegated_scope(tree: Path) -> None:
    assert cgroups.problems() == []
    command = cgroups.launcher("dev")
    assert command[:2] == ["systemd-run", "--scope"]
    assert "--property=Delegate=yes" in command
    assert "--unit=future-kubernetes-dev.scope" in command


def test_without_systemd_no_scope_is_asked_for(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path / "nowhere")
    assert cgroups.launcher("dev") == []
    assert cgroups.problems() == []


def test_a_missing_controller_is_named(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("cpuset io memory pids\n")
    assert "no cgroup controller cpu (it offers: cpuset io memory pids)" in cgroups.problems()[0]


def test_kernel_for_one_processor_without_cpuset_is_accepted(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("cpu io memory pids\n")
    assert cgroups.problems() == []


def test_read_only_groups_are_told_as_a_containers(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_read_only", lambda _folder: True)
    assert "--privileged --cgroupns=host" in cgroups.problems()[0]


def test_a_containers_top_group_with_processes_is_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path / "nowhere")
    (tree / "cgroup.type").write_text("domain\n")
    assert "holds processes, so cpu cannot be enabled" in cgroups.problems()[0]
    (tree / "cgroup.procs").write_text("")
    assert cgroups.problems() == []


def test_the_services_weigh_an_eighth_of_the_pods(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_own_scope", lambda _cluster: tree / "future-kubernetes-dev.scope")
    groups = cgroups.NodeGroup("dev")
    groups.balance()  # kubelet has not started yet
    (groups.folders[0] / "services/cpu.weight").write_text("100\n")
    (groups.folders[0] / "kubepods").mkdir()
    (groups.folders[0] / "kubepods/cpu.weight").write_text("79\n")
    groups.balance()
    assert (groups.folders[0] / "services/cpu.weight").read_text() == "9"


def test_folder_that_cannot_be_written_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUTURE_KUBERNETES_CACHE", str(tmp_path / "file/cache"))
    monkeypatch.setenv("FUTURE_KUBERNETES_STATE", str(tmp_path / "file/state"))
    reasons = machine._storage_problems()
    assert ["set FUTURE_KUBERNETES_CACHE" in reasons[0], "set FUTURE_KUBERNETES_STATE" in reasons[1]] == [True, True]


def refused(preparation: str, folder: Path) -> str:
    """Run the checks before a start in a mount namespace of their own; return the refusal."""
    check = f"{shlex.quote(sys.executable)} -c 'from local import machine; machine.preflight()'"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", f"{preparation}\nexec {check}"],
        cwd=Path(machine.__file__).parents[1],
        env={
            **os.environ,
            "FUTURE_KUBERNETES_CACHE": str(folder / "cache"),
            "FUTURE_KUBERNETES_STATE": str(folder / "state"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Kubernetes cannot run on this machine" in done.stderr
    left = [path for name in ("cache", "state") for path in (folder / name).rglob("*")]
    assert not left, "a refusal leaves nothing"
    return done.stderr


in_namespaces = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@in_namespaces
def test_start_in_a_container_with_read_only_groups_is_refused(tmp_path: Path) -> None:
    said = refused(
        "grep -E ' cgroup2? ' /proc/mounts | while read -r _ folder _; do mount -o remount,bind,ro $folder; done",
        tmp_path,
    )
    assert f"{cgroups.ROOT}" in said
    assert "read-only, as in a container" in said
    assert "--privileged --cgroupns=host" in said


@in_namespaces
@pytest.mark.parametrize("name", ["cache", "state"])
def test_on_a_full_disk_the_start_is_refused(tmp_path: Path, name: str) -> None:
    said = refused(f"mkdir {tmp_path}/{name}; mount -t tmpfs -o size=1m tmpfs {tmp_path}/{name}", tmp_path)
    assert f"{tmp_path}/{name} has 0.0 GiB free" in said
    assert f"set FUTURE_KUBERNETES_{name.upper()} to a folder on another disk" in said


@in_namespaces
@pytest.mark.parametrize("name", ["cache", "state"])
def test_on_a_read_only_disk_the_start_is_refused(tmp_path: Path, name: str) -> None:
    said = refused(f"mkdir {tmp_path}/{name}; mount -t tmpfs -o ro tmpfs {tmp_path}/{name}", tmp_path)
    assert f"{tmp_path}/{name} cannot be written (Read-only file system)" in said
    assert f"set FUTURE_KUBERNETES_{name.upper()}" in said


@in_namespaces
def test_start_without_overlay_and_tun_is_refused_naming_both(tmp_path: Path) -> None:
    (tmp_path / "filesystems").write_text("nodev\ttmpfs\n")
    (tmp_path / "modules").mkdir()
    said = refused(
        f"mount --bind {tmp_path}/filesystems /proc/filesystems; mount -t tmpfs tmpfs /dev/net 2>/dev/null || true\n"
        f"if [ -d /lib/modules ]; then mount --bind {tmp_path}/modules /lib/modules; fi",
        tmp_path,
    )
    assert "overlay" in said
    assert "tun" in said


def test_the_node_reads_endings_without_the_project(tmp_path: Path) -> None:
    folder = Path(machine.__file__).parent
    done = subprocess.run(
        ["python3", "-c", "from node import supervisor; print(supervisor.fatal_line('Error: x'))"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "Error: x"


def test_command_in_the_node_lacks_the_logins_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = tmp_path / "nsenter"
    entered.write_text('#!/bin/sh\necho "${XDG_RUNTIME_DIR-none} $HOME"\n')
    entered.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    monkeypatch.setenv("HOME", "/home/me")
    node = cluster.Node("dev", 1, tmp_path / "kubeconfig", tmp_path)
    assert node.run("ctr", "run").stdout == "none /home/me\n"


def test_no_command_makes_a_user_namespace() -> None:
    for path in Path(machine.__file__).parent.rglob("*.py"):
        found = re.findall(r"\"--user\"|\"-U\"|--map-root-user|NEWUSER|0x10000000|rootless", path.read_text())
        assert not found, path
    assert "--isolation=chroot" in image._ISOLATION, "buildah's others make one"
