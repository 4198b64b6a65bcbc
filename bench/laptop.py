"""Measures a plan over `kubectl port-forward` beside the same forward without the plan.

    python bench/laptop.py [--workers 40]

Runs on stack dev's cluster (`make up` first), as root, with a release of its own in a namespace of its own. R runs in
a root folder of the image's base on this machine, outside of any pod. The raw rate is of one TCP connection through
one forward, to a program in the scheduler's pod that reads or sends 100 MB, once by Python and once by R's own sockets.
The plan sends an object of 100 MB with a future, and takes a result of 100 MB. Each is the best of three. Prints one
Markdown table, with the part of the raw rate that R and the plan reach.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.release import image_of_stack_dev, install
from common.errors import UserError
from common.paths import REPO
from common.patience import patience
from common.progress import step
from local import cluster, debian_rootfs
from local.image import BASE

NAMESPACE = "bench-laptop"
RELEASE = "far"
PORT = 9999
BYTES = 100_000_000
ROUNDS = 3
LIBRARY = "usr/lib/R/site-library"

_ENTER = """
mount --make-rprivate / && mount --rbind /dev "$0/dev" && mount --rbind /proc "$0/proc" || exit 99
root=$0
exec chroot "$root" env -i HOME=/root PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 "$@"
"""

# Sends to the first connection, reads from the second one to its end and says so, and so on.
_PEER = f"""
import socket
server = socket.create_server(("127.0.0.1", {PORT}))
print("ready", flush=True)
piece = bytes(1 << 20)
while True:
    con, _ = server.accept()
    left = {BYTES}
    while left:
        left -= con.send(piece[:left])
    con.close()
    con, _ = server.accept()
    left = {BYTES}
    while left and (data := con.recv(1 << 20)):
        left -= len(data)
    con.send(b"1")
    con.close()
"""

_PLAN = """
suppressMessages(library(future.kubernetes))
dir.create(folder <- tempfile("project-"))
setwd(folder)
plan(kubernetes, workers = {n}, cluster = {cluster})
seconds <- function(code) system.time(code)[["elapsed"]]
invisible(value(future(1)))
first <- again <- result <- numeric()
for (i in seq_len({rounds})) {{
  x <- as.raw(sample(0:255, {bytes}, TRUE))
  first[i] <- seconds(value(future(length(x))))
  again[i] <- seconds(value(future(length(x))))
  f <- future(as.raw(rep(i + 0:200, length.out = {bytes})))
  while (!resolved(f)) Sys.sleep(0.05)
  result[i] <- seconds(value(f))
}}
none <- seconds(value(future(1)))
map <- function() seconds(value(lapply(seq_len({n}), function(i) future(Sys.sleep(1)))))
map()
cat("RESULT", min(first), min(again), none, min(result), map(), "\\n")
"""

# The raw connections once more, by R.
_R_ITSELF = """
timed <- function(code) {{
  con <- socketConnection("127.0.0.1", {port}, blocking = TRUE, open = "a+b", timeout = 60)
  on.exit(close(con))
  system.time(code(con))[["elapsed"]]
}}
piece <- raw(2^20)
down <- up <- numeric()
for (i in seq_len({rounds})) {{
  down[i] <- timed(function(con) {{
    left <- {bytes}
    while (left > 0) left <- left - length(readBin(con, "raw", min(left, 2^20)))
  }})
  up[i] <- timed(function(con) {{
    left <- {bytes}
    while (left > 0) {{
      part <- if (left < 2^20) raw(left) else piece
      writeBin(part, con)
      left <- left - length(part)
    }}
    readBin(con, "raw", 1L)
  }})
}}
cat("RESULT", min(down), min(up), "\\n")
"""


@dataclass(frozen=True)
class Laptop:
    """A root file system with R, this package and kubectl, in which programs run on the host's network."""

    root: Path
    release: str
    namespace: str

    def run(self, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command there, with its output captured."""
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            ["unshare", "-m", "sh", "-c", _ENTER, self.root, *command],
            capture_output=True, text=True, check=False, timeout=patience(200), **options,
        )  # fmt: skip

    def cluster(self, kubeconfig: str = "/root/kubeconfig", release: str = "") -> str:
        """Return the value of `cluster` in plan()."""
        fields = {"release": release or self.release, "namespace": self.namespace, "kubeconfig": kubeconfig}
        return "list({})".format(", ".join(f'{name} = "{value}"' for name, value in fields.items()))


@contextmanager
def laptop(
    node: cluster.Node,
    namespace: str,
    release: str,
    base: debian_rootfs.DebianRoot = BASE,
    from_image: Sequence[str] = (),
) -> Iterator[Laptop]:
    """Make one from Debian packages and R packages `from_image` of the image's base; remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="laptop-") as folder:
        root = Path(folder)
        with tarfile.open(debian_rootfs.ensure(base)) as archive:
            archive.extractall(root, filter="tar")
        if from_image:
            wanted = tuple(f"./{LIBRARY}/{package}/" for package in from_image)
            with tarfile.open(debian_rootfs.ensure(BASE)) as archive:
                archive.extractall(root, [each for each in archive if each.name.startswith(wanted)], filter="tar")
        shutil.copy(node.programs / "kubectl", root / "usr/local/bin/kubectl")
        shutil.copy(node.kubeconfig, root / "root/kubeconfig")
        shutil.copytree(REPO / "image" / "future.kubernetes", root / "root/package")
        made = Laptop(root, release, namespace)
        installed = made.run("R", "CMD", "INSTALL", "/root/package")
        if installed.returncode != 0:
            raise UserError(f"The R package could not be installed: {installed.stderr[-800:]}")
        yield made


def main() -> int:
    """Install the release, measure, print the table, and remove everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=40)
    arguments = parser.parse_args()
    node = cluster.running("dev")
    if node is None:
        print("error: stack dev does not run. Fix: make up", file=sys.stderr)
        return 1
    try:
        rows = measure(node, image_of_stack_dev(node), arguments.workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("| | raw | R without the plan | plan |\n| --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return 0


def measure(node: cluster.Node, image: str, n: int) -> list[tuple[str, ...]]:
    """Return the rows of the table, for a release with n workers that lasts as long as the measurement."""
    load = os.getloadavg()[0]
    resources = {"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    try:
        with step(f"Starting {n} workers"):
            node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={patience(180):.0f}s")
            install(node, NAMESPACE, RELEASE, secrets.token_urlsafe(48), {
                "image": image, "scheduler": {"homeGiB": 0},
                "worker": {"replicas": n, "maxReplicas": n, "resources": resources},
            })  # fmt: skip
        with laptop(node, NAMESPACE, RELEASE) as far:
            with step("One forward without a plan"):
                down, up, r_down, r_up = raw(node, far)
            with step("The plan"):
                code = _PLAN.format(n=n, cluster=far.cluster(), bytes=BYTES, rounds=ROUNDS)
                first, again, none, result, all_workers = numbers(far, code)
    finally:
        node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={patience(180):.0f}s")
    print(f"\n{os.cpu_count()} cores, load average {load:.1f} at the start.\n")
    return [
        ("100 MB to the pod; with a future, as its global", *beside(up, r_up, first - again)),
        ("100 MB from the pod; as a future's result", *beside(down, r_down, result)),
        ("a future without data; with an object that is there", "", "", f"{1e3 * none:.0f} ms; {1e3 * again:.0f} ms"),
        (f"{n} futures of 1 s on {n} workers", "", "", f"{all_workers:.2f} s"),
    ]


def numbers(far: Laptop, code: str) -> list[float]:
    """Return what an R program of the laptop prints after the word RESULT."""
    ran = far.run("Rscript", "-", input=code)
    if ran.returncode != 0:
        raise UserError(f"R failed: {ran.stdout[-400:]}{ran.stderr[-800:]}")
    line = next(line for line in ran.stdout.splitlines() if line.startswith("RESULT"))
    return [float(word) for word in line.split()[1:]]


def beside(without: float, *others: float) -> tuple[str, ...]:
    """Return the rate of 100 MB in the seconds without a plan, and those of others with their part of the former."""
    mb = BYTES / 1e6
    return f"{mb / without:.0f} MB/s", *(f"{mb / one:.0f} MB/s ({100 * without / one:.0f} %)" for one in others)


def raw(node: cluster.Node, far: Laptop) -> tuple[float, float, float, float]:
    """Return the best seconds of 100 MB through one forward, from the pod and to it: by Python, and the same by R."""
    kubectl = [str(node.programs / "kubectl"), f"--kubeconfig={node.kubeconfig}", "-n", NAMESPACE]
    target = f"deploy/{RELEASE}-scheduler"
    down, up = [], []
    with (
        subprocess.Popen(
            [*kubectl, "exec", target, "--", "python3", "-u", "-c", _PEER], stdout=subprocess.PIPE, text=True
        ) as peer,
        subprocess.Popen([*kubectl, "port-forward", target, f":{PORT}"], stdout=subprocess.PIPE, text=True) as forward,
    ):
        try:
            assert peer.stdout
            assert forward.stdout
            if peer.stdout.readline() != "ready\n":
                raise UserError("the program in the scheduler's pod did not start; kubectl's message is above")
            said = forward.stdout.readline()
            if "127.0.0.1:" not in said:
                raise UserError("kubectl port-forward did not start; its message is above")
            port = int(said.split("127.0.0.1:")[1].split()[0])
            for _ in range(ROUNDS):
                down.append(_timed(port, receive=True))
                up.append(_timed(port, receive=False))
            r_down, r_up = numbers(far, _R_ITSELF.format(port=port, bytes=BYTES, rounds=ROUNDS))
        finally:
            forward.terminate()
            peer.terminate()
    return min(down), min(up), r_down, r_up


def _timed(port: int, *, receive: bool) -> float:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as con:
        left = BYTES
        if receive:
            while left and (data := con.recv(1 << 20)):
                left -= len(data)
            if left:
                raise UserError(f"the forward ended {left} bytes too early")
        else:
            con.sendall(bytes(BYTES))
            if con.recv(1) != b"1":
                raise UserError("the forward ended before all was read")
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
