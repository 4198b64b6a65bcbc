"""First process of a node: what it corrects on kernels that lack something."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from local.node import init


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("proc", "run", "etc/alternatives"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("iptables", "iptables-save", "iptables-restore"):
        (tmp_path / "etc/alternatives" / name).symlink_to(f"/usr/sbin/{name.replace('iptables', 'iptables-nft')}")
    return tmp_path


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="kubelet needs a clock speed only there")
def test_cpuinfo_without_a_clock_speed_gets_one_for_each_processor(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts: list[tuple[str, ...]] = []
    monkeypatch.setattr(init, "_mount", lambda *arguments: mounts.append(arguments))
    (root / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: UML\n\nprocessor\t: 1\nmodel name\t: UML\n")
    init._complete_cpuinfo(root)
    assert mounts == [("--bind", str(root / "run/cpuinfo"), f"{root}/proc/cpuinfo")]
    assert (root / "run/cpuinfo").read_text() == (
        "processor\t: 0\ncpu MHz\t\t: 1000.000\nmodel name\t: UML\n\n"
        "processor\t: 1\ncpu MHz\t\t: 1000.000\nmodel name\t: UML\n"
    )


def test_cpuinfo_with_a_clock_speed_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "_mount", lambda *arguments: pytest.fail(f"mounted {arguments}"))
    (root / "proc/cpuinfo").write_text("processor\t: 0\ncpu MHz\t\t: 2400.123\n")
    init._complete_cpuinfo(root)


@pytest.mark.parametrize(
    ("working", "chosen"),
    [
        ({"iptables-nft", "iptables-legacy"}, "/usr/sbin/iptables-nft-save"),
        ({"iptables-legacy"}, "/usr/sbin/iptables-legacy-save"),
        (set[str](), "/usr/sbin/iptables-nft-save"),  # the error of kube-proxy then names Debian's default
    ],
)
def test_iptables_is_the_legacy_program_only_where_nothing_else_works(
    root: Path, monkeypatch: pytest.MonkeyPatch, working: set[str], chosen: str
) -> None:
    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["chroot", str(root)]
        return subprocess.CompletedProcess(command, 0 if command[2] in working else 3)

    monkeypatch.setattr(subprocess, "run", run)
    init._choose_iptables(root)
    assert os.readlink(root / "etc/alternatives/iptables-save") == chosen
