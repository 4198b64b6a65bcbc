"""The image that scheduler and workers run: built and pushed, or a given reference. Pods run it by digest either way.

On stack `dev` the image is built before the program runs and given like any other.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pulumi

from components.clouds.base import ImageRegistry
from components.clouds.checks import ask, problem
from components.clouds.settings import ManagedSettings
from components.settings.model import Settings

IMAGE_DIR = "image"
"""Relative to the project, because an absolute path in an input would be a change on every other machine."""

DOCKER_SOCKET = "/var/run/docker.sock"
"""Where Docker listens unless told otherwise."""


class ImageError(pulumi.RunError):
    """An image that can neither be used as given nor built."""


@dataclass(frozen=True)
class ImageArgs:
    """What the component needs.

    given: a reference by digest to use instead of building, as `pinned` gives it. registry: where to push what is
    built; needed when nothing is given. tag: of what is pushed. base_image: None for the Dockerfile's own, pinned one.
    r_repository: URL, with a password in it maybe, of a further repository of R packages; a secret of the build alone.
    """

    given: str | None
    registry: ImageRegistry | None
    tag: str
    ide: str = "rstudio"
    base_image: str | None = None
    r_packages: tuple[str, ...] = ()
    apt_packages: tuple[str, ...] = ()
    r_repository: str | None = field(default=None, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings, registry: ImageRegistry | None, given: str | None) -> ImageArgs:
        """The arguments that a stack's settings stand for."""
        return cls(
            given=given,
            registry=registry,
            tag=settings.name,
            ide=settings.ide,
            base_image=settings.base_image if isinstance(settings, ManagedSettings) else None,
            r_packages=settings.r_packages,
            apt_packages=settings.apt_packages,
            r_repository=settings.r_repository.get_secret_value()
            if isinstance(settings, ManagedSettings) and settings.r_repository
            else None,
        )

    @property
    def build_args(self) -> dict[str, str]:
        """Values of the Dockerfile's ARGs. Sorted, so that another order in the config is no other image."""
        values = {
            "BASE_IMAGE": self.base_image or "",
            "IDE": self.ide,
            "R_PACKAGES": " ".join(sorted(self.r_packages)),
            "APT_PACKAGES": " ".join(sorted(self.apt_packages)),
        }
        return {name: value for name, value in values.items() if value}


class Image(pulumi.ComponentResource):
    """The image of a stack. `reference` ends in `@sha256:...`, except in the preview of a build that has yet to run."""

    reference: pulumi.Output[str]

    def __init__(self, name: str, args: ImageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("future-kubernetes:index:Image", name, None, opts)
        if args.given:
            self.reference = pulumi.Output.from_input(args.given)
        elif args.registry:
            self.reference = self.build(name, args, args.registry)
        else:
            raise ImageError(
                "this cluster brings no registry to push an image to\n    fix: pulumi config set image REFERENCE"
            )
        self.register_outputs({"reference": self.reference})

    def build(self, name: str, args: ImageArgs, registry: ImageRegistry) -> pulumi.Output[str]:
        """Builds and pushes; unchanged sources build nothing, whatever the short-lived password of the day is.

        The provider leaves a registry's password out of its comparison, which is why it stands here and not in
        `ignore_changes`: that would push with the password of the last run.
        """
        import pulumi_docker_build as docker_build

        repository = pulumi.Output.from_input(registry.repository)
        cache = repository.apply(lambda address: f"{address}:buildcache")
        built = docker_build.Image(
            name,
            context=docker_build.BuildContextArgs(location=IMAGE_DIR),
            dockerfile=docker_build.DockerfileArgs(location=f"{IMAGE_DIR}/Dockerfile"),
            build_args=args.build_args,
            # Mounted for one step of the build: in no argument, no layer and no cache.
            secrets={"r_repository": pulumi.Output.secret(args.r_repository)} if args.r_repository else None,
            platforms=[docker_build.Platform(registry.platform)],
            tags=[repository.apply(lambda address: f"{address}:{args.tag}")],
            push=True,
            # A preview runs a pull request's files: it must neither run its Dockerfile nor take the minutes of a build.
            build_on_preview=False,
            cache_from=[docker_build.CacheFromArgs(registry=docker_build.CacheFromRegistryArgs(ref=cache))],
            cache_to=[
                docker_build.CacheToArgs(
                    registry=docker_build.CacheToRegistryArgs(
                        ref=cache,
                        mode=docker_build.CacheMode.MAX,
                        image_manifest=registry.oci_cache,
                        oci_media_types=registry.oci_cache,
                        ignore_error=True,
                    )
                )
            ],
            registries=[
                docker_build.RegistryArgs(
                    address=registry.server,
                    username=registry.username,
                    password=pulumi.Output.secret(registry.password),
                )
            ],
            opts=pulumi.ResourceOptions(parent=self),
        )
        return built.ref


FIXES = (
    (r"docker (server|daemon)|docker\.sock", "start Docker, or give the image by its digest: name@sha256:..."),
    (r"unauthorized|denied|forbidden|40[13]", "docker login to its registry with an account that may pull it"),
    (r"manifest unknown|not found|404", "push the image, or see that name and tag are right"),
    (
        r"no such host|refused|timeout",
        "see that its registry answers, or give the image by its digest: name@sha256:...",
    ),
)


def pinned(reference: str) -> str:
    """`reference` with its digest: its own, or the one that its registry gives for the tag now.

    Raises CloudError where the registry gives none.
    """
    if "@sha256:" in reference:
        return reference
    import pulumi_docker as docker

    found = ask(f"the digest of image {reference}", lambda: docker.get_registry_image(name=reference), FIXES)
    return f"{reference}@{found.sha256_digest}"


def require_docker() -> None:
    """Raises ImageError where an update is about to build an image, and there is no Docker to build it.

    A preview builds nothing. Where the user has named another daemon or builder, in one of the ways that Docker's own
    command knows, only the build can tell whether it answers.
    """
    if pulumi.runtime.is_dry_run() or os.name != "posix":
        return
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    named = os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT")
    if named or any(any(folder.glob(kept)) for kept in ("contexts/meta/*", "buildx/instances/*")):
        return
    try:
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(DOCKER_SOCKET)
    except PermissionError:
        what, fix = f"you may not use Docker ({DOCKER_SOCKET})", 'sudo usermod -aG docker "$USER", then log in again'
    except OSError as error:
        what, fix = f"Docker does not run ({DOCKER_SOCKET}: {error.strerror})", "start Docker; docker info tells"
    else:
        return
    raise ImageError(
        problem(
            f"{what}, and the image is to be built with it",
            "a Docker that runs, DOCKER_HOST or a docker context that names one, or a given image",
            f"{fix}; or: pulumi config set image REFERENCE",
        )
    )
