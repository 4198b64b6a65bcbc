"""The check of the IDEs at the image's build."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT
from .door import FAKE_RSERVER, LACKS_SOCKET


def check(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The check at the image's build."""
    command = [sys.executable, str(ROOT / "image/etc/future_kubernetes_rstudio.py"), *words]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path), **environ}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=30)


def test_build_looks_at_rserver_and_lets_it_verify_itself(tmp_path: Path) -> None:
    assert "no RStudio Server" in check(tmp_path, "--look").stderr
    shutil.copy(FAKE_RSERVER, tmp_path / "rserver")
    (tmp_path / "rserver").write_text(f"#!{sys.executable}\n{FAKE_RSERVER.read_text()}")
    (tmp_path / "rserver").chmod(0o755)
    assert check(tmp_path, "--look").returncode == 0
    assert "too old" in check(tmp_path, "--look", **LACKS_SOCKET).stderr
    verified = check(tmp_path, "--verify", str(tmp_path))
    assert verified.returncode == 0, verified.stderr
    options: dict[str, Any] = json.loads(verified.stdout)
    assert options["verify-installation"] == "1"
    assert options["auth-none"] == "1"
    assert options["www-root-path"] == "/rstudio/"
    assert not any("{" in value for value in options.values())


@pytest.mark.parametrize(
    ("ide", "look", "verify", "built", "warns"),
    [
        ("rstudio", 0, 0, True, ""),
        ("rstudio", 0, 1, True, "may not start"),
        ("rstudio", 1, 0, False, ""),
        ("both", 1, 0, True, "JupyterLab can"),
        ("jupyterlab", 1, 1, True, ""),
    ],
)
def test_build_refuses_an_image_without_its_only_ide(
    tmp_path: Path, ide: str, look: int, verify: int, built: bool, warns: str
) -> None:
    step = re.search(r"^RUN mkdir /tmp/verify;.*?[^\\]$", (ROOT / "image/Dockerfile").read_text(), re.M | re.S)
    assert step
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$2" != --look ] || exit $LOOK\nexit $VERIFY\n')
    python.chmod(0o755)
    script = step[0].removeprefix("RUN ").replace("\\\n", "").replace("/tmp/verify", str(tmp_path / "verify"))
    script = script.replace("/opt/jupyter/bin/python", str(python))
    environ = {"PATH": os.environ["PATH"], "IDE": ide, "LOOK": str(look), "VERIFY": str(verify)}
    done = subprocess.run(["sh", "-c", script], env=environ, check=False, capture_output=True, text=True)
    assert (done.returncode == 0) is built
    assert warns in done.stderr
    assert ("WARNING" in done.stderr) is bool(warns)
