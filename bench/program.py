"""Measures time and memory of the program for each cloud, from settings to registered resources: no engine, no network.

    python bench/program.py [--runs 5]

Each run is a process of its own. The kernel accounts its CPU time and peak resident memory (getrusage).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "127.0.0.1:5000/future-kubernetes@sha256:" + "ab" * 32

SECONDS = {"local": 1.5, "kubeconfig": 1.5, "gke": 2.0, "eks": 2.0}
MIB = {"local": 120, "kubeconfig": 120, "gke": 160, "eks": 160}

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "x",
}

CLOUDS = "from tests.unit import aws_cloud as aws, google_cloud as google"
REST = "from components.clouds.google import rest; rest.fetch = google.kubernetes_engine()"
# The unit tests' answers replace the clouds' data sources and Google's REST calls, which need the network.
PROGRAM = {
    "local": f"run({{'cloud': 'local', 'image': {IMAGE!r}}}, {{}}, lambda *a: {{}}, stack_name='bench')",
    "kubeconfig": f"run({{'cloud': 'kubeconfig', 'image': {IMAGE!r}}}, {{}}, lambda *a: {{}}, stack_name='bench')",
    "gke": f"{CLOUDS}; {REST}; run(stack_config('gke-team'), google.ANSWERS, google.computed, stack_name='gke-team')",
    "eks": f"{CLOUDS}; run(stack_config('eks-team'), aws.ANSWERS, aws.computed, stack_name='eks-team')",
}
CHILD = """
import shutil, sys
sys.path.insert(0, {root!r})
which = shutil.which
shutil.which = lambda name, **more: None if name == "kubectl" else which(name, **more) or "/usr/bin/" + name
from tests.unit.cloud_mocks import run, stack_config
{program}
print(open("/proc/self/status").read(), file=sys.stderr)
"""


class Row(TypedDict):
    """A line of the table."""

    cloud: str
    seconds: float
    cpuSeconds: float
    mib: int
    atMostSeconds: float
    atMostMib: int


@dataclass(frozen=True)
class Run:
    """Cost of one process."""

    seconds: float
    cpu_seconds: float
    mib: float


def measured(cloud: str, environment: dict[str, str]) -> Run:
    """Run the program once. Raises RuntimeError with the end of its output if it fails."""
    code = CHILD.format(root=str(ROOT), program=PROGRAM[cloud])
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    said = process.stderr.read()
    # wait4, since getrusage of all children would sum the runs.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(said.strip().splitlines()[-1] if said.strip() else f"exit status {process.returncode}")
    # The kernel counts in ru_maxrss what the child had of this process before it became another program.
    peak = re.findall(r"^VmHWM:\s+(\d+) kB$", said, flags=re.MULTILINE)[-1]
    return Run(seconds, usage.ru_utime + usage.ru_stime, int(peak) / 1024)


def surroundings(folder: Path) -> dict[str, str]:
    """Return the environment of a run, with a kubeconfig in `folder`."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(KUBECONFIG))
    found = {
        **os.environ, "FUTURE_KUBERNETES_KUBECONFIG": str(kubeconfig), "KUBECONFIG": str(kubeconfig),
        "DOCKER_HOST": "tcp://docker.invalid:2376",  # required for an update; no image is built here
    }  # fmt: skip
    # Without bytecode each start compiles the SDK, which takes most of the time and half of the memory.
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def main() -> int:
    """Prints the table; returns 0 if every cloud was measured and stays within its limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        environment = surroundings(Path(folder))
        for cloud in PROGRAM:
            try:
                # The first run writes bytecode and fills the page cache, which happens once on a machine.
                measured(cloud, environment)
                runs = [measured(cloud, environment) for _ in range(arguments.runs)]
            except RuntimeError as error:
                print(f"{cloud}: not measured: {error}", file=sys.stderr)
                continue
            rows.append(
                {
                    "cloud": cloud,
                    "seconds": round(statistics.median(run.seconds for run in runs), 2),
                    "cpuSeconds": round(statistics.median(run.cpu_seconds for run in runs), 2),
                    "mib": round(max(run.mib for run in runs)),
                    "atMostSeconds": SECONDS[cloud],
                    "atMostMib": MIB[cloud],
                }
            )
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print("| cloud | median seconds | CPU seconds | most memory, MiB | promised |")
        print("| --- | ---: | ---: | ---: | --- |")
        for row in rows:
            promised = f"{row['atMostSeconds']} s, {row['atMostMib']} MiB"
            print(f"| {row['cloud']} | {row['seconds']} | {row['cpuSeconds']} | {row['mib']} | {promised} |")
    # By CPU time: the program never waits, and other work on the machine must not count.
    kept = all(row["cpuSeconds"] <= row["atMostSeconds"] and row["mib"] <= row["atMostMib"] for row in rows)
    return 0 if kept and len(rows) == len(PROGRAM) else 1


if __name__ == "__main__":
    sys.exit(main())
