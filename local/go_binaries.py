"""Builds the programs of the local node and of the tests from pinned Go modules, once, into the cache folder.

The versions stand in `node/go.mod` with their checksums in `node/go.sum`; the built programs are keyed by both. Go
itself comes from PATH where it is new enough, else from the Go module proxy, which serves each toolchain as a module
(https://go.dev/doc/toolchain).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.paths import REPO, cache_dir
from common.patience import patience
from common.progress import Step, step

KUBERNETES_VERSION = "v1.36.3"
_GO_VERSION = "1.26.8"
_GO_SHA256 = {
    "amd64": "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7",
    "arm64": "02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99",
}


@dataclass(frozen=True)
class GoModule:
    """A folder with a go.mod, and the packages of it to build.

    apart: packages that Go refuses to build together with the others. links: further names of a multi-call program,
    which acts by the name that it is called by. tags: build tags, with commas between them.
    """

    folder: Path
    packages: tuple[str, ...]
    apart: tuple[str, ...] = ()
    links: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tags: str = ""

    def batches(self) -> list[tuple[str, ...]]:
        """Return the packages of each `go build`. One build compiles what is shared once, and links in parallel."""
        return [self.packages, *((package,) for package in self.apart)]


NODE = GoModule(
    REPO / "local" / "node",
    (
        "./kubernetes",
        "k8s.io/kubernetes/cmd/kubectl",  # a program of its own: it is started often, and a small one starts faster
        "./coredns",
        "helm.sh/helm/v3/cmd/helm",
        "sigs.k8s.io/metrics-server/cmd/metrics-server",
        "./registry",
    ),
    # It spells a module's name in another case, and Go refuses both spellings in one build.
    apart=("github.com/rancher/local-path-provisioner",),
    links=(("kubernetes", ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")),),
)
KUBE_SCORE = GoModule(REPO / "tests" / "chart" / "kube-score", ("github.com/zegl/kube-score/cmd/kube-score",))
# Without its clients of the clouds, which find targets to scrape: 250 packages less.
PROMTOOL = GoModule(
    REPO / "tests" / "chart" / "promtool",
    ("github.com/prometheus/prometheus/cmd/promtool",),
    tags="remove_all_sd",
)
OAUTH2_PROXY = GoModule(REPO / "tests" / "chart" / "oauth2-proxy", ("github.com/oauth2-proxy/oauth2-proxy/v7",))
# In a go.mod of its own: it needs other versions of many modules, and must not change the node's.
KWOK = GoModule(REPO / "bench" / "kwok", ("sigs.k8s.io/kwok/cmd/kwok",))

# Without these, nodes and clients would report v0.0.0, and `helm template` would take Kubernetes for an old one.
_LDFLAGS = " ".join(
    ["-s", "-w"]
    + [
        f"-X {package}/version.{name}={value}"
        for package in ("k8s.io/component-base", "k8s.io/client-go/pkg")
        for name, value in (("gitVersion", KUBERNETES_VERSION), ("gitMajor", "1"), ("gitMinor", "36"))
    ]
    + [f"-X helm.sh/helm/v3/pkg/chartutil.k8sVersion{part}" for part in ("Major=1", "Minor=36")]
)


def build(module: GoModule) -> Path:
    """Build what is not built yet and return the folder that holds the programs.

    Each program appears there by a rename, so that an interrupted build leaves no partial program. Compiled packages
    stay in a cache folder, and the next call continues from there.
    """
    bin_dir = cache_dir() / "bin" / _key(module)
    if not _missing(module, bin_dir):
        return bin_dir
    bin_dir.mkdir(parents=True, exist_ok=True)
    with exclusive(cache_dir() / "go.lock", "another build of the tools"):
        missing = _missing(module, bin_dir)
        with step(f"Compiling {sum(map(len, missing))} programs ({module.folder.name})") as progress:
            _build_missing(module, missing, bin_dir, progress)
    return bin_dir


def program_name(package: str) -> str:
    """Name of a package's program: the last part of its path that is no major version, as `go build` has it."""
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v[0-9]+", parts[-1]) else parts[-1]


def _missing(module: GoModule, bin_dir: Path) -> list[tuple[str, ...]]:
    """Return the batches of packages whose programs or links are missing."""
    links = dict(module.links)

    def stands(package: str) -> bool:
        name = program_name(package)
        return all((bin_dir / each).exists() for each in (name, *links.get(name, ())))

    left = [tuple(package for package in batch if not stands(package)) for batch in module.batches()]
    return [batch for batch in left if batch]


def _build_missing(module: GoModule, missing: list[tuple[str, ...]], bin_dir: Path, progress: Step) -> None:
    go = _go(module.folder, progress)
    environment = _environment()
    needed: set[str] = set()
    for batch in missing:
        progress.note("downloading modules")
        needed.update(_needed_packages(go, module, batch, environment))
    compiled = 0

    def count(package: str) -> None:
        nonlocal compiled
        compiled += 1
        progress.update(compiled, len(needed), package.rpartition("/")[2])

    links = dict(module.links)
    with tempfile.TemporaryDirectory(dir=bin_dir.parent) as scratch:
        for batch in missing:
            _go_build(go, module, batch, Path(scratch), count)
            for name in map(program_name, batch):
                os.replace(f"{scratch}/{name}", bin_dir / name)
                for link in links.get(name, ()):
                    (bin_dir / link).unlink(missing_ok=True)
                    (bin_dir / link).symlink_to(name)
    # About 4 GB that nothing needs once the programs are built.
    for leftover in ("go-build", "go-mod"):
        shutil.rmtree(cache_dir() / leftover, ignore_errors=True)


def _needed_packages(go: str, module: GoModule, batch: tuple[str, ...], environment: dict[str, str]) -> list[str]:
    listed = subprocess.run(
        [go, "list", "-tags", module.tags, "-deps", *batch],
        cwd=module.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        raise UserError(
            f"go list {' '.join(batch)} failed in {module.folder}: {listed.stderr.strip()[-600:]}\n"
            f"Is the Go module proxy reached? GOPROXY is {environment.get('GOPROXY', 'https://proxy.golang.org')}."
        )
    return listed.stdout.split()


def _go_build(go: str, module: GoModule, batch: tuple[str, ...], out: Path, compiled: Callable[[str], None]) -> None:
    """Build one batch into `out`. compiled: called with each package that the build reports."""
    command = [go, "build", "-v", "-tags", module.tags, "-trimpath", "-ldflags", _LDFLAGS, "-o", f"{out}/", *batch]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=module.folder, env=_environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            compiled(line.strip())
    if process.returncode != 0:
        raise UserError(
            f"go build {' '.join(batch)} failed:\n{''.join(lines[-15:])}\n"
            f"Free disk: {shutil.disk_usage(out).free >> 20} MiB in {cache_dir()}."
        )


def _key(module: GoModule) -> str:
    digest = hashlib.sha256(f"{_LDFLAGS}{module.tags}{platform.machine()}".encode())
    for source in sorted(module.folder.rglob("*")):
        if source.suffix in (".go", ".mod", ".sum"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOCACHE": str(cache_dir() / "go-build"),
        "GOMODCACHE": str(cache_dir() / "go-mod"),
        "GOFLAGS": "-buildvcs=false -modcacherw",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def _go(folder: Path, progress: Step) -> str:
    """Return the `go` on PATH if it is new enough for the module, else a toolchain in the cache folder."""
    match = re.search(r"^go (\d+)\.(\d+)\.?(\d*)", (folder / "go.mod").read_text(), re.MULTILINE)
    assert match, f"{folder}/go.mod names no Go version"
    wanted = tuple(int(part or 0) for part in match.groups())
    on_path = shutil.which("go")
    if on_path:
        said = subprocess.run([on_path, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
        have = tuple(int(part) for part in re.findall(r"\d+", said)[:3])
        if have >= wanted:
            return on_path
    return str(_toolchain(progress) / "bin" / "go")


def _toolchain(progress: Step) -> Path:
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    target = cache_dir() / f"go{_GO_VERSION}-{arch}"
    if target.exists():
        return target
    name = f"v0.0.1-go{_GO_VERSION}.linux-{arch}"
    proxies = [p for p in re.split(r"[,|]", os.environ.get("GOPROXY", "")) if p.startswith("http")]
    url = f"{(proxies or ['https://proxy.golang.org'])[0].rstrip('/')}/golang.org/toolchain/@v/{name}.zip"
    progress.note(f"downloading Go {_GO_VERSION}")
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        archive = Path(scratch) / "go.zip"
        try:
            with urllib.request.urlopen(url, timeout=patience(60)) as answer, archive.open("wb") as out:  # noqa: S310 (http(s) only, above)
                shutil.copyfileobj(answer, out)
        except (urllib.error.URLError, OSError) as error:
            raise UserError(
                f"Go {_GO_VERSION} cannot be had from {url}: {error}. Install Go by hand, then run again."
            ) from error
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != _GO_SHA256[arch]:
            raise UserError(f"{url} has SHA-256 {found}, expected {_GO_SHA256[arch]}: it was not unpacked.")
        with zipfile.ZipFile(archive) as unpacked:
            unpacked.extractall(scratch)
        root = Path(scratch) / f"golang.org/toolchain@{name}"
        for program in [*(root / "bin").iterdir(), *(root / "pkg" / "tool").rglob("*")]:
            program.chmod(0o755)
        root.rename(target)
    return target


@contextmanager
def exclusive(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs; print a message while waiting for it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step(f"Waiting for {what}"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
