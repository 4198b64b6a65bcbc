"""The programs start from the folders that the Dockerfile copies into the image."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

LIBRARY = "/usr/local/lib/future-kubernetes"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's library folder, made by the Dockerfile's own lines."""
    folder = tmp_path_factory.mktemp("library")
    lines = re.findall(
        rf"^COPY (\w+)/ {LIBRARY}/(future_kubernetes/\w+)/$", (ROOT / "image/Dockerfile").read_text(), re.M
    )
    for source, target in lines:
        shutil.copytree(ROOT / "image" / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("program", ["future-scheduler", "future-worker"])
def test_program_of_a_container_finds_its_modules(library: Path, program: str) -> None:
    [code] = re.findall(r"-c '(.*?)'", (ROOT / "image/bin" / program).read_text(), re.S)
    code = code.replace(LIBRARY, str(library)).replace("\nmain()", "")
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_broker_starts_from_the_folder_of_the_scheduler(library: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(library)!r})
from future_kubernetes.scheduler.main import broker_command
print(broker_command()[-1].removesuffix("; main()"))
"""
    command = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True).stdout
    assert str(library) in command
    assert "future_kubernetes.broker.main" in command
    subprocess.run([sys.executable, "-I", "-c", command], check=True)
