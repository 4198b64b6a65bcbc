"""The cache folder of `make up`: nothing partial stays in it, and an interrupted run continues where it ended."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import UserError
from local import cluster, debian_rootfs, go_binaries, image

FAKE_GO = """#!/bin/sh
case "$1" in
  env) echo go1.99.0 ;;
  list) printf 'a\\nb\\nc\\n' ;;
  build)
    mkdir -p "$GOCACHE"
    while [ "$1" != -o ]; do shift; done
    out=$2; shift 2
    echo "$@" >> "$GO_CALLS"
    for package; do
      if [ "$package" = "$GO_FAILS_AT" ]; then echo "no space left on device" >&2; exit 1; fi
      echo program > "$out/${package##*/}"
    done ;;
esac
"""

FAKE_MMDEBSTRAP = """#!/bin/sh
for word; do case "$word" in /*) target=$word ;; esac; done
mkdir -p "$target"; echo half > "$target/half"
printf '%s\\n' "$@" > "$target/arguments"
cat > "$target/sources"
if [ -n "$DEBIAN_FAILS" ]; then echo "E: Unable to locate package nonsense"; exit 1; fi
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("go", FAKE_GO), ("mmdebstrap", FAKE_MMDEBSTRAP)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FUTURE_KUBERNETES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GO_CALLS", str(tmp_path / "calls"))
    (tmp_path / "module").mkdir()
    (tmp_path / "module/go.mod").write_text("module m\n\ngo 1.26.0\n")
    return tmp_path


def test_failed_build_leaves_nothing_half_made_and_next_continues(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = go_binaries.GoModule(
        machine / "module",
        ("example.org/one", "example.org/two"),
        apart=("example.org/three",),
        links=(("one", ("first", "uno")),),
    )
    monkeypatch.setenv("GO_FAILS_AT", "example.org/two")
    with pytest.raises(UserError, match="no space left on device"):
        go_binaries.build(module)
    assert list((machine / "cache").glob("bin/*/*")) == []
    assert (machine / "cache/go-build").exists(), "what is compiled is compiled again"
    monkeypatch.setenv("GO_FAILS_AT", "example.org/three")
    with pytest.raises(UserError, match="no space left on device"):
        go_binaries.build(module)
    monkeypatch.delenv("GO_FAILS_AT")
    folder = go_binaries.build(module)
    assert sorted(path.name for path in folder.iterdir()) == ["first", "one", "three", "two", "uno"]
    assert (folder / "uno").readlink() == Path("one")
    both = "example.org/one example.org/two"
    assert (machine / "calls").read_text().splitlines() == [both, both, *["example.org/three"] * 2]
    assert not (machine / "cache/go-build").exists()
    (folder / "uno").unlink()
    go_binaries.build(module)
    assert (folder / "uno").exists(), "a program without one of its names is not whole"


def test_another_version_is_built_beside_the_old_one(machine: Path) -> None:
    module = go_binaries.GoModule(machine / "module", ("example.org/one",))
    before = go_binaries.build(module)
    (machine / "module/go.sum").write_text("something newer\n")
    assert go_binaries.build(module) != before
    assert before.exists()


def test_root_folder_that_could_not_be_finished_is_absent(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = debian_rootfs.DebianRoot("node", ("forky",), ("nonsense",))
    monkeypatch.setenv("DEBIAN_FAILS", "yes")
    with pytest.raises(UserError, match="Unable to locate package nonsense"):
        debian_rootfs.ensure(root)
    assert not root.path().exists()
    assert [path.name for path in root.path().parent.iterdir()] == []
    monkeypatch.setenv("DEBIAN_FAILS", "")
    assert (debian_rootfs.ensure(root) / "half").exists()


@pytest.mark.usefixtures("machine")
def test_root_folder_depends_on_packages_and_suites_in_order() -> None:
    root = debian_rootfs.DebianRoot("node", ("trixie", "forky"), ("bash", "make"), exclude=("/usr/share/doc/*",))
    made = debian_rootfs.ensure(root)
    arguments = (made / "arguments").read_text().splitlines()
    assert {"--format=directory", "--dpkgopt=path-exclude=/usr/share/doc/*", "--include=bash,make"} <= set(arguments)
    assert (arguments[-3], arguments[-1]) == ("trixie", "-")
    sources = (made / "sources").read_text().splitlines()
    assert [line.split()[-2:] for line in sources] == [["trixie", "main"], ["forky", "main"]]
    assert all("signed-by=/usr/share/keyrings/debian-archive-keyring.gpg" in line for line in sources)


def test_go_that_is_too_old_is_not_used(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = machine / "programs/go"
    fake.write_text(FAKE_GO.replace("go1.99.0", "go1.19.8"))
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot be had from http://127.0.0.1:9/golang.org/toolchain"):
        go_binaries.build(go_binaries.GoModule(machine / "module", ("example.org/one",)))


def test_a_program_that_no_package_manager_can_bring_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.debian_rootfs.shutil.which", lambda _name: None)
    with pytest.raises(UserError, match="Install chromium chromium-driver"):
        debian_rootfs.program("chromium", "chromium", "chromium-driver")


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (
            "W: Not using locking for read only lock file /var/lib/dpkg/lock\n"
            "E: Could not open file /var/cache/apt/archives/partial/x.deb - open (30: Read-only file system)",
            "make /var writable, or install mmdebstrap by hand",
        ),
        ("E: You don't have enough free space in /var/cache/apt/archives/.", r"free some disk space in /var \(\d+ MiB"),
        ("E: Unable to locate package mmdebstrap", "see the error, or install mmdebstrap by hand"),
    ],
)
def test_full_or_read_only_var_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str, fix: str
) -> None:
    (tmp_path / "error").write_text(error)
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\n/bin/cat {tmp_path}/error >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UserError, match=fix) as refused:
        debian_rootfs.program("mmdebstrap", "mmdebstrap")
    assert error in str(refused.value)


def test_two_clusters_that_start_at_once_both_get_the_image(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def buildah(arguments: object, binds: dict[Path, str], node: cluster.Node) -> subprocess.CompletedProcess[str]:
        """Takes its time, and then writes where it was told to."""
        time.sleep(0.3)
        (next(iter(binds)) / "digest").write_text("sha256:1")
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(image, "build", lambda request: "tag")
    monkeypatch.setattr(image, "_buildah", buildah)
    monkeypatch.setattr(image, "_in_registry", lambda node, digest: False)
    nodes = [cluster.Node(name, 1, machine / "kubeconfig", machine) for name in ("one", "two")]
    with ThreadPoolExecutor() as pool:
        pushed = set(pool.map(lambda node: image.push(node, image.ImageRequest()), nodes))
    assert len(pushed) == 1
    assert pushed.pop().endswith("@sha256:1")
