"""Builds the image of stack `dev`, only from package registries, and pushes it to the node's registry.

The Dockerfile is that of the clouds. Only the base differs: Debian packages replace rocker/rstudio, which no package
registry serves. buildah runs inside the node's Debian root, so that no container engine is needed.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.paths import REPO, cache_dir
from common.progress import step
from local import debian_rootfs
from local.cluster import Node
from local.go_binaries import exclusive
from local.node.places import REGISTRY

IMAGE_FOLDER = REPO / "image"
BASE = debian_rootfs.DebianRoot(
    name="image-base",
    # R and future come from forky; r-cran-irkernel is only in trixie.
    suites=("forky", "trixie"),
    packages=(
        "ca-certificates",
        "openssl",
        "procps",
        "python3",
        "python3-venv",
        "r-base-core",
        "r-cran-foreach",
        "r-cran-furrr",
        "r-cran-future",
        "r-cran-future.apply",
        "r-cran-irkernel",
        "r-cran-jsonlite",
        "r-cran-parallelly",
        "r-cran-progressr",
    ),
    exclude=("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/icons/*"),
    archive=True,
)
_NAME = "future-kubernetes"
_KEPT_IMAGES = 12
"""More than all tests together use at one state of the code, so that a second run builds none of them again."""
# Build steps run as plain processes on the machine's network: no bridge, no runtime.
_ATTEMPTS = 3
_TRANSIENT = "sealing memfd copy: Device or resource busy"
"""Said, rarely, by the program that runs a step when it copies itself into memory. Finished layers are kept."""
_ISOLATION = ("--isolation=chroot", "--network=host")


@dataclass(frozen=True)
class ImageRequest:
    """Inputs that determine the content of the image, beside the files of `image/`."""

    ide: str = "jupyterlab"
    r_packages: tuple[str, ...] = ()
    apt_packages: tuple[str, ...] = ()
    base_programs: tuple[tuple[str, str], ...] = ()
    """Path and text of scripts that the base has, where the clouds' base has programs that no registry serves."""

    def key(self) -> str:
        """Key that changes with every input of the image."""
        digest = hashlib.sha256(repr((self, BASE.path().name)).encode())
        for source in sorted(path for path in IMAGE_FOLDER.rglob("*") if path.is_file()):
            if "__pycache__" in source.parts or source.suffix == ".pyc":
                continue
            digest.update(f"{source.relative_to(IMAGE_FOLDER)}:{source.stat().st_mode & 0o111}:".encode())
            digest.update(source.read_bytes())
        return digest.hexdigest()[:12]


def build(request: ImageRequest) -> str:
    """Builds the image unless it is built, and returns its name in buildah's store."""
    tag = f"localhost/{_NAME}:{request.key()}"
    if _stamp(request).exists():
        _stamp(request).touch()  # the last use, by which the store keeps it
        return tag
    base = debian_rootfs.ensure(BASE)
    base_tag = f"localhost/{BASE.name}:{base.stem.rpartition('-')[2]}"
    with _alone():
        if _stamp(request).exists():
            return tag
        if _buildah(["inspect", "--type=image", base_tag]).returncode != 0:
            with step("Importing the image's base"):
                containerfile = f"FROM scratch\nADD {base.name} /\n"
                arguments = ["build", "--quiet", *_ISOLATION, "--tag", base_tag, "--file=-", "/debian"]
                imported = _buildah(arguments, binds={base.parent: "/debian"}, stdin=containerfile)
                if imported.returncode != 0:
                    raise UserError(f"The image's base cannot be imported: {imported.stderr[-800:]}")
        build_arguments = {
            "BASE_IMAGE": _with_programs(base_tag, request.base_programs) if request.base_programs else base_tag,
            "IDE": request.ide,
            "R_PACKAGES": " ".join(request.r_packages),
            "APT_PACKAGES": " ".join(request.apt_packages),
        }
        _build_layers(tag, build_arguments)
        _stamp(request).parent.mkdir(parents=True, exist_ok=True)
        _stamp(request).touch()
        _remove_old_images()
    return tag


def _remove_old_images() -> None:
    """Removes what builds that were killed have left, and the images that were used longest ago.

    Each edit of `image/` makes another image, of up to 2 GB. What is lost is time: an image that is wanted again is
    built again. The node has a copy of the one that it runs.
    """
    stamps = [path for path in _stamp(ImageRequest()).parent.iterdir() if path.is_file() and not path.suffix]
    by_use = sorted(stamps, key=lambda stamp: stamp.stat().st_mtime, reverse=True)
    for stamp in by_use[_KEPT_IMAGES:]:
        stamp.unlink()  # first: a stamp without its image would be believed
        _buildah(["rmi", f"localhost/{_NAME}:{stamp.name}"])
    # The lock is held, so no container belongs to a build that runs. Each holds the layers below it.
    _buildah(["rm", "--all"])
    _buildah(["rmi", "--prune"])


def _with_programs(base_tag: str, programs: Sequence[tuple[str, str]]) -> str:
    """Add these scripts to the base, and return the name of what is built."""
    tag = f"{base_tag}-{hashlib.sha256(repr(programs).encode()).hexdigest()[:12]}"
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        lines = [f"FROM {base_tag}"]
        for number, (path, text) in enumerate(programs):
            script = Path(folder) / str(number)
            script.write_text(text)
            script.chmod(0o755)
            lines.append(f"COPY {number} {path}")
        arguments = ["build", "--quiet", *_ISOLATION, "--tag", tag, "--file=-", "/programs"]
        built = _buildah(arguments, binds={Path(folder): "/programs"}, stdin="\n".join(lines))
    if built.returncode != 0:
        raise UserError(f"Programs cannot be added to the image's base: {built.stderr[-800:]}")
    return tag


def _build_layers(tag: str, arguments: dict[str, str]) -> None:
    command = ["build", "--layers", *_ISOLATION, "--tag", tag]
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    # buildah tries to raise limits above the machine's, which fails; without SYS_RESOURCE it does not try.
    for name, limit in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(limit)[1]
        command.append(f"--ulimit={name}={hard}:{hard}")
    # The build trusts what the machine trusts: behind a proxy with its own certificate, pip works as it does there.
    command += ["--volume=/host-certificates:/etc/ssl/certs:ro", "/image"]
    binds = {IMAGE_FOLDER: "/image", Path("/etc/ssl/certs"): "/host-certificates"}
    with step("Building the image") as progress:
        for left in reversed(range(_ATTEMPTS)):
            last: deque[str] = deque(maxlen=25)
            with subprocess.Popen(
                _in_node_root(["buildah", *command], binds), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    last.append(line)
                    progress.note(line.strip())
            if process.returncode == 0:
                return
            if not left or not any(_TRANSIENT in line for line in last):
                raise UserError(f"The image cannot be built:\n{''.join(last)}")


def push(node: Node, request: ImageRequest) -> str:
    """Pushes the image to the node's registry; returns the reference by digest for the pods."""
    tag = build(request)
    digest_file = _stamp(request).with_suffix(".digest")
    repository = f"{REGISTRY}/{_NAME}"
    if digest_file.exists():
        digest = digest_file.read_text().strip()
        if _in_registry(node, digest):
            return f"{repository}@{digest}"
    # Two clusters may be started at once.
    with _alone(), step("Pushing the image to the local registry"):
        # Uncompressed: on one machine gzip costs more time than the bytes that it saves.
        arguments = ["push", "--tls-verify=false", "--disable-compression", "--digestfile=/out/digest"]
        arguments += [tag, f"docker://{repository}:{request.key()}"]
        out = digest_file.with_suffix(".out")
        out.mkdir(parents=True, exist_ok=True)
        pushed = _buildah(arguments, binds={out: "/out"}, node=node)
        if pushed.returncode != 0:
            _stamp(request).unlink(missing_ok=True)  # where the store has lost the image, the next start builds it
            raise UserError(
                f"The image cannot be pushed to the node's registry: {pushed.stderr[-800:]}\n"
                "Fix: the same command again, which builds the image anew."
            )
        (out / "digest").replace(digest_file)
        out.rmdir()
    return f"{repository}@{digest_file.read_text().strip()}"


def _alone() -> AbstractContextManager[None]:
    """Hold the lock of buildah's mounts and store, which all clusters of this machine share."""
    return exclusive(cache_dir() / "image.lock", "another build or push of the image")


def _in_registry(node: Node, digest: str) -> bool:
    url = f"http://{REGISTRY}/v2/{_NAME}/manifests/{digest}"
    accept = "Accept: application/vnd.oci.image.manifest.v1+json"
    try:
        answer = node.run("busybox", "wget", "-q", "-O-", "--header", accept, url).stdout
    except UserError:
        return False
    return "layers" in json.loads(answer)


def _stamp(request: ImageRequest) -> Path:
    return cache_dir() / "image" / request.key()


def _buildah(
    arguments: Sequence[str], binds: dict[Path, str] | None = None, stdin: str = "", node: Node | None = None
) -> subprocess.CompletedProcess[str]:
    command = _in_node_root(["buildah", *arguments], binds or {}, node)
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def _in_node_root(command: Sequence[str], binds: dict[Path, str], node: Node | None = None) -> list[str]:
    """Return the command line that runs `command` in the node's Debian root, which stays mounted only while it runs.

    The command uses the machine's network, or that of `node`, whose registry listens only on the node's loopback.
    """
    root = debian_rootfs.ensure(debian_rootfs.NODE_ROOT)
    scratch = cache_dir() / "buildah"
    mounts = [
        "set -e",
        f"mount -t overlay overlay -o lowerdir={root},upperdir={scratch}/upper,workdir={scratch}/work {scratch}/root",
    ]
    mounts += [f"mount --rbind /{name} {scratch}/root/{name}" for name in ("proc", "sys", "dev")]
    mounts += [f"mount -t tmpfs tmpfs {scratch}/root/{name}" for name in ("run", "tmp")]
    # Buildah's store must lie on the disk itself: an overlay cannot be the upper layer of another.
    for source, target in {scratch / "store": "/var/lib/containers", scratch / "tmp": "/var/tmp", **binds}.items():  # noqa: S108
        source.mkdir(parents=True, exist_ok=True)
        mounts.append(f"mkdir -p {scratch}/root{target}; mount --bind {source} {scratch}/root{target}")
    mounts.append(f"rm -f {scratch}/root/etc/resolv.conf; cat /etc/resolv.conf > {scratch}/root/etc/resolv.conf")
    mounts.append(f"cat /etc/hosts > {scratch}/root/etc/hosts")
    mounts.append(f'exec chroot {scratch}/root env PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/var/tmp "$@"')
    for name in ("upper", "work", "root", "store", "tmp"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    prefix = ["nsenter", f"--net=/proc/{node.pid}/ns/net"] if node else []
    return [*prefix, "unshare", "--mount", "--propagation=private", "sh", "-c", "\n".join(mounts), "sh", *command]
