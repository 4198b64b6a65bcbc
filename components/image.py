"""The image of scheduler and workers: built and pushed, or a given reference. Pods run it by digest in both cases.

On stack `dev` the image is built before the program runs, and given like any other.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pulumi

from components.clouds.base import ImageRegistry
from components.clouds.checks import ask, problem
from components.clouds.settings import ManagedSettings
from components.settings.model import Settings

IMAGE_DIR = "image"
"""Relative to the project, because an absolute path in an input would be a change on every other machine."""

DOCKER_SOCKET = "/var/run/docker.sock"
"""Docker's default socket."""


class ImageError(pulumi.RunError):
    """An image that can be neither used nor built."""


class Image(pulumi.ComponentResource):
    """The image of a stack. `reference` ends in `@sha256:...`, except in the preview of a build that has yet to run.

    given: a reference by digest to use instead of building, as `pinned` returns it. registry: where to push the image
    that is built; needed when nothing is given.
    """

    reference: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        settings: Settings,
        registry: ImageRegistry | None,
        given: str | None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("future-kubernetes:index:Image", name, None, opts)
        if given:
            self.reference = pulumi.Output.from_input(given)
        elif registry and isinstance(settings, ManagedSettings):
            self.reference = self._built(name, settings, registry)
        else:
            raise ImageError(
                problem(
                    "this cluster brings no registry to push an image to",
                    "the reference of an image that the cluster can pull",
                    "pulumi config set image REFERENCE",
                )
            )
        self.register_outputs({"reference": self.reference})

    def _built(self, name: str, settings: ManagedSettings, registry: ImageRegistry) -> pulumi.Output[str]:
        """Builds and pushes. Unchanged sources build nothing, although the registry's password changes daily.

        The provider leaves the password out of its comparison. In `ignore_changes` it would be that of the last run.
        """
        import pulumi_docker_build as docker_build

        repository = pulumi.Output.from_input(registry.repository)
        cache = repository.apply(lambda address: f"{address}:buildcache")
        built = docker_build.Image(
            name,
            context=docker_build.BuildContextArgs(location=IMAGE_DIR),
            dockerfile=docker_build.DockerfileArgs(location=f"{IMAGE_DIR}/Dockerfile"),
            build_args=build_args(settings),
            secrets=build_secrets(settings),
            platforms=[docker_build.Platform(registry.platform)],
            tags=[repository.apply(lambda address: f"{address}:{settings.name}")],
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


def build_args(settings: ManagedSettings) -> dict[str, str]:
    """Values of the Dockerfile's ARGs. Sorted, so that the same packages in another order are the same image."""
    values = {
        "BASE_IMAGE": settings.base_image or "",
        "IDE": settings.ide,
        "R_PACKAGES": " ".join(sorted(settings.r_packages)),
        "APT_PACKAGES": " ".join(sorted(settings.apt_packages)),
    }
    return {name: value for name, value in values.items() if value}


def build_secrets(settings: ManagedSettings) -> dict[str, pulumi.Output[str]] | None:
    """Secrets that are mounted for one step of the build, and end up in no argument, no layer and no cache."""
    if settings.r_repository is None:
        return None
    return {"r_repository": pulumi.Output.secret(settings.r_repository.get_secret_value())}


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
    """`reference` with a digest: its own, or the one that the registry has for the tag now.

    Raises CloudError where the registry returns none.
    """
    if "@sha256:" in reference:
        return reference
    import pulumi_docker as docker

    found = ask(f"the digest of image {reference}", lambda: docker.get_registry_image(name=reference), FIXES)
    return f"{reference}@{found.sha256_digest}"


def require_docker() -> None:
    """Raises ImageError where an update would build an image without a Docker to build it.

    A preview builds nothing. Where the user has configured another daemon or builder, in one of the ways of the docker
    command, the build itself shows whether it answers.
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
        what, fix = f"Docker does not run ({DOCKER_SOCKET}: {error.strerror})", "start Docker (see: docker info)"
    else:
        return
    raise ImageError(
        problem(
            f"{what}, which the image is built with",
            "a running Docker, DOCKER_HOST or a docker context that names one, or a given image",
            f"{fix}; or: pulumi config set image REFERENCE",
        )
    )
