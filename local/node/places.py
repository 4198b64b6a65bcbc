"""Addresses and folders of a node, its time limits, and a command that must succeed. Standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NODE_IP = "10.0.2.100"  # slirp4netns's default for the guest
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
POD_RANGE = "10.244.0.0/16"
REGISTRY = "127.0.0.1:5000"
PAUSE_IMAGE = "future-kubernetes.local/pause:1"
PKI = Path("/var/lib/pki")
CONFIG = Path("/etc/node")
LOGS = Path("/var/log/node")

# A machine that emulates its processor needs longer (common/patience.py). A service that starts too early there ends,
# and takes CPU from the service that it waits for.
PATIENCE = float(os.environ.get("FUTURE_KUBERNETES_PATIENCE") or 1)


def run(*argv: str) -> str:
    """Return the output of a command that must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
