"""Brings stack dev up on this machine and takes it down again, cluster included.

`up` starts Kubernetes, builds the image, runs the program, and ends with a smoke test in R. The program runs by the
Pulumi CLI, or by the stand-in where the CLI cannot be installed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pulumi

from common.errors import UserError
from common.local_stack import LocalStack
from common.paths import LOCAL_STACK, local_cluster, state_dir
from components.settings.model import Settings
from local import cluster, debian_rootfs, engines, go_binaries, image, machine, smoke_test
from local.stack_config import IMAGE_TO_BE_BUILT, read_settings


def up(config: Mapping[str, str], *, full: bool = False) -> None:
    """Creates or updates stack dev; `config` overrides Pulumi.dev.yaml. full: smoke test in the article's size.

    Raises UserError.
    """
    started = time.monotonic()
    name = local_cluster()
    settings = _settings(config)
    machine.preflight()
    node, reference = start_with_image(name, image_request(settings))
    engine = engines.choose(node, LOCAL_STACK)
    try:
        outputs = engine.up(LOCAL_STACK, {"image": reference, **config})
    except pulumi.RunError as error:
        raise UserError(str(error)) from None
    LocalStack(str(node.programs / "kubectl"), str(state_dir(name) / "upper/var/log/node"), dict(outputs)).save()
    measured = smoke_test.run(node, outputs, smoke_test.ARTICLE_LENGTH if full else smoke_test.SHORT_LENGTH)
    print(smoke_test.report(measured, outputs))
    print(f"All of it took {time.monotonic() - started:.0f} s. `make down` removes everything again.")


def down() -> bool:
    """Removes stack dev with its cluster; returns False if there was none.

    No `pulumi destroy` is needed: the stack's state and all its objects are in the cluster's folder.
    """
    return cluster.stop(local_cluster())


def start_with_image(name: str, request: image.ImageRequest) -> tuple[cluster.Node, str]:
    """Start the cluster and push the image; return the node and the image's reference by digest.

    Compiling needs the processors and installing packages needs the network, so both run at the same time.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        debian_rootfs.ensure(debian_rootfs.NODE_ROOT)
        built = pool.submit(image.build, request)
        compiled = pool.submit(go_binaries.build, go_binaries.NODE)
        compiled.result()
        node = cluster.start(name)
        built.result()
    return node, image.push(node, request)


def image_request(settings: Settings) -> image.ImageRequest:
    """Return the image that the settings describe."""
    return image.ImageRequest(settings.ide, tuple(sorted(settings.r_packages)), tuple(sorted(settings.apt_packages)))


def _settings(config: Mapping[str, str]) -> Settings:
    """Return stack dev's settings. Raises UserError with every error in them, before anything is built."""
    try:
        settings = read_settings(LOCAL_STACK, config)
    except pulumi.RunError as error:
        raise UserError(
            f'{error}\nFor stack dev: edit Pulumi.{LOCAL_STACK}.yaml, or make up CONFIG="KEY=VALUE ..."'
        ) from None
    if settings.cloud != "local":
        raise UserError(
            f"cloud is {settings.cloud!r} in stack {LOCAL_STACK}\n    allowed: local\n"
            "    fix:     pulumi up, in a stack for that cloud"
        )
    if settings.ide == "rstudio" and settings.image == IMAGE_TO_BE_BUILT:
        raise UserError(
            f"ide is 'rstudio' in stack {LOCAL_STACK}, whose image is of Debian packages, without RStudio Server\n"
            "    allowed: jupyterlab, both (RStudio's page then gives the reason)\n"
            '    fix:     make up CONFIG="ide=jupyterlab"'
        )
    return settings
