"""The image's front door on loopback, for benchmarks and tests: its Jupyter server, with the image's configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common.paths import REPO


def prepare(folder: Path) -> None:
    """Make the home, and the library of Python modules as the image has it."""
    (folder / "home").mkdir()
    (folder / "lib").mkdir()
    (folder / "lib/future_kubernetes").symlink_to(REPO / "image")


def command(port: int, base: str = "/") -> list[str]:
    """Return the command that starts it."""
    return [
        sys.executable, "-m", "jupyter_server", f"--config={REPO}/image/etc/jupyter_server_config.py",
        "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", f"--ServerApp.base_url={base}",
    ]  # fmt: skip


def environ(folder: Path, run: Path, ide: str = "both") -> dict[str, str]:
    """Return its environment: ``folder`` has home, programs and password; the broker's sockets are in ``run``."""
    return {
        "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": f"{folder}/home", "TMPDIR": str(folder),
        "PYTHONPATH": f"{REPO}/image/etc:{folder}/lib", "FUTURE_KUBERNETES_RUN": str(run),
        "FUTURE_KUBERNETES_PASSWORD_FILE": f"{folder}/password", "FUTURE_KUBERNETES_IDE": ide,
    }  # fmt: skip
