"""kubectl: where to find it, and one way to call it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common.patience import patience


def find_program(name: str) -> str | None:
    """Path of a program: in $FUTURE_KUBERNETES_BIN, which the local cluster sets, else on PATH."""
    folder = os.environ.get("FUTURE_KUBERNETES_BIN")
    return (shutil.which(name, path=folder) if folder else None) or shutil.which(name)


@dataclass(frozen=True)
class Kubectl:
    """A kubectl program with its kubeconfig; with a namespace where all calls are about that one."""

    program: str
    kubeconfig: Path
    namespace: str = ""

    def command(self, *arguments: str) -> list[str]:
        """The command line. The kubeconfig is given by path: `ps` shows arguments to everybody."""
        scope = [f"--namespace={self.namespace}"] if self.namespace else []
        return [self.program, f"--kubeconfig={self.kubeconfig}", *scope, *arguments]

    def run(self, *arguments: str, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs kubectl to its end; the caller checks `returncode`. Raises subprocess.TimeoutExpired."""
        return subprocess.run(
            self.command(*arguments),
            input=stdin, capture_output=True, text=True, timeout=patience(timeout), check=False,
        )  # fmt: skip


def last_line(text: str) -> str:
    """The last line with text in it, which is where kubectl and Helm print the reason of a failure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
