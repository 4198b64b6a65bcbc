"""The story in the virtual machine: what counts as left behind, and how the outcome is shown."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from ci.lint import tracked_files
from common.errors import UserError
from tests.vm import __main__ as vm
from tests.vm import guest, images, qemu, story, tree, uml
from tests.vm.guest import Guest
from tests.vm.spec import UML_ADDRESS, MachineSpec


class FakeGuest:
    """A machine in which one command may fail, and one thing may be left."""

    def __init__(self, fails: str = "", leaves: str = "") -> None:
        self.fails, self.leaves, self.ran = fails, leaves, list[str]()

    def run(self, command: str) -> str:
        if command.startswith("lsmod"):
            return "Module\nveth\n" + ("overlay\n" if self.ran else "")
        return f"{self.leaves}\n" if self.ran and self.leaves and command == story.FOOTPRINT["control groups"] else ""

    def stream(self, command: str, line: Callable[[str], None]) -> int:
        self.ran.append(command.rpartition("&& ")[2])
        line("said something")
        return int(bool(self.fails) and command.endswith(self.fails))


def play(
    guest: FakeGuest, folder: Path, more: tuple[str, ...] = (), engines: tuple[str, ...] = ()
) -> list[story.Outcome]:
    return story.play(cast(Guest, guest), folder / "log", more, engines)


def test_story_that_holds_runs_every_step_and_names_loaded_modules(tmp_path: Path) -> None:
    guest = FakeGuest()
    outcomes = play(guest, tmp_path, ("test-unit",))
    assert guest.ran == [
        "make up",
        "make up",
        "make status",
        "grep -qx 204 /tmp/analysis/sum.txt",
        "make down",
        "make test-unit",
    ]
    assert all(outcome.held for outcome in outcomes)
    assert outcomes[-1].detail == "overlay"
    assert "== make up again" in (tmp_path / "log").read_text()


def test_step_that_fails_ends_the_story_with_its_last_lines(tmp_path: Path) -> None:
    guest = FakeGuest(fails="make up")
    outcomes = play(guest, tmp_path)
    assert guest.ran == ["make up"]
    assert [outcome.held for outcome in outcomes] == [False]
    assert "FAIL make up" in story.summary(outcomes)
    assert "said something" in story.summary(outcomes)


def test_story_beside_an_engine_fails_where_that_does_not_run(tmp_path: Path) -> None:
    guest = FakeGuest()
    assert all(outcome.held for outcome in play(guest, tmp_path, engines=("containerd",)))
    assert guest.ran[0] == guest.ran[-1] == "systemctl is-active containerd"
    outcomes = play(FakeGuest(fails="containerd"), tmp_path, engines=("containerd",))
    assert [(outcome.title, outcome.held) for outcome in outcomes] == [("containerd is active", False)]


def test_control_group_that_stays_is_a_failure(tmp_path: Path) -> None:
    outcomes = play(FakeGuest(leaves="/sys/fs/cgroup/future-kubernetes-dev"), tmp_path)
    failed = [outcome for outcome in outcomes if not outcome.held]
    assert [outcome.title for outcome in failed] == ["nothing is left"]
    assert failed[0].detail == "control groups: left behind: /sys/fs/cgroup/future-kubernetes-dev"


@pytest.mark.parametrize("name", story.FOOTPRINT)
def test_everything_that_is_listed_is_compared(name: str) -> None:
    before = {key: ["a"] for key in story.FOOTPRINT}
    assert story.differences(before, before) == []
    assert story.differences(before, {**before, name: ["b"]}) == [f"{name}: left behind: b", f"{name}: missing: a"]


def test_commit_inside_is_a_clone_whose_files_tests_can_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        def run(self, command: str, stdin: bytes) -> None:
            subprocess.run(["sh", "-euc", command], input=stdin, check=True)

    monkeypatch.setattr(tree, "INSIDE", str(tmp_path / "copy"))
    tree.copy_commit(cast(Guest, Here()))
    assert "Makefile" in tracked_files(tmp_path / "copy", "Makefile")


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that sets the flags of this machine's processor."""
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(uml, "_CPUINFO", cpuinfo)

    def flags(text: str) -> None:
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {text} sse\n")

    flags("avx512f")
    return flags


@pytest.mark.parametrize(
    ("arguments", "kvm", "flags", "kernel", "kind"),
    [
        ((), True, "amx_tile", "cloud", "kvm"),
        ((), False, "avx512f", "uml", "uml"),
        ((), False, "amx_tile", "cloud", "tcg"),  # Debian's user-mode Linux does not start there
        (("--vm", "tcg"), False, "avx512f", "cloud", "tcg"),
        (("--vm", "uml"), True, "avx512f", "uml", "uml"),
        (("--with", "docker"), False, "avx512f", "cloud", "tcg"),  # user-mode Linux cannot run Docker
    ],
)
def test_machine_is_user_mode_linux_where_no_kvm_works(
    monkeypatch: pytest.MonkeyPatch,
    processor: Callable[[str], None],
    tmp_path: Path,
    arguments: tuple[str, ...],
    kvm: bool,
    flags: str,
    kernel: str,
    kind: str,
) -> None:
    processor(flags)
    kernels: list[str] = []

    def root_image(spec: MachineSpec) -> images.RootImage:
        kernels.append(spec.kernel)
        return images.RootImage(tmp_path)

    monkeypatch.setattr(images, "root_image", root_image)
    monkeypatch.setattr(qemu, "may_have_kvm", lambda: True)
    monkeypatch.setattr(qemu, "kvm_works", lambda _image: kvm)
    _, chosen = vm._machine(vm._parser().parse_args(arguments))
    assert (kernels[-1], chosen) == (kernel, kind)


@pytest.mark.usefixtures("processor")
def test_docker_in_user_mode_linux_is_refused_before_a_build() -> None:
    with pytest.raises(UserError, match=r"user-mode Linux(.|\n)*fix: +--vm tcg"):
        vm._machine(vm._parser().parse_args(["--vm", "uml", "--with", "docker"]))


def test_user_mode_linux_is_refused_where_it_cannot_start(processor: Callable[[str], None]) -> None:
    processor("amx_bf16 amx_tile amx_int8")
    with pytest.raises(UserError, match=r"Debian 13 does not start(.|\n)*AMX(.|\n)*fix: +--vm tcg"):
        vm._machine(vm._parser().parse_args(["--vm", "uml", "--debian", "13"]))


def test_user_mode_linux_has_own_names_of_disk_and_network() -> None:
    spec = MachineSpec(12, "uml")
    assert not [name for name in spec.packages if name.startswith(("linux-image", "initramfs"))]
    assert "/dev/ubda / ext4" in spec.files["etc/fstab"]
    assert f"Address={UML_ADDRESS}/24" in spec.files["etc/systemd/network/user.network"]


def test_user_mode_linux_changes_no_network_or_disk_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(uml, "vm_dir", lambda: tmp_path)
    monkeypatch.setattr(guest, "boot", lambda command, _kind: started.append(command(2222, tmp_path / "console.log")))
    uml.start(images.RootImage(tmp_path / "root"), tmp_path / "home")
    (words,) = started
    assert words[:2] == ["unshare", "--mount"]
    assert {"--propagation=private", "--pid", "--kill-child"} < set(words)
    assert "ubd0=/vm/root.cow,/vm/root/disk" in words
    assert "ubd1=/vm/home.cow,/vm/home" in words
    network = words[words.index(str(tmp_path)) + 1]
    assert network.index("unshare --net") < network.index("touch /run/namespace") < network.index("slirp4netns")
    for script in (words[words.index("-ec") + 1], network):
        assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
