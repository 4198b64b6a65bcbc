"""Laptops of these tests: root folders with an R of their own, outside of any pod."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from bench import laptop as laptops
from bench.release import install
from common.patience import patience
from local import debian_rootfs
from local.image import BASE
from tests.e2e.conftest import SMALL_POD, Stack


class Laptop(laptops.Laptop):
    """The benchmarks' laptop, with what the tests run there."""

    def r(self, code: str) -> str:
        """Output of an R program of the laptop; it must print GOOD at its end."""
        prelude = f"""
            options(warn = 1)
            suppressMessages(library(future.kubernetes))
            folder <- tempfile("project-")
            dir.create(folder)
            setwd(folder)
            there <- {self.cluster()}
            forward <- function() future.kubernetes:::target$pid
        """
        done = self.run("Rscript", "-", input=f'{prelude}\n{code}\nplan(sequential)\ncat("GOOD")')
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("GOOD")
        return done.stdout + done.stderr


PACKAGES = ("callr", "processx", "ps", "R6")
"""Packages that the image lacks, with compiled code two of them."""
WITH_PACKAGES = replace(
    BASE, name="laptop", packages=(*BASE.packages, *(f"r-cran-{package.lower()}" for package in PACKAGES))
)
"""The image's own R, so that these travel as they are."""
OTHER_R = debian_rootfs.DebianRoot(
    name="other-r",
    suites=("trixie",),
    packages=("r-base-core", "r-cran-codetools", "r-cran-digest", "r-cran-jsonlite"),
    exclude=BASE.exclude,
    archive=True,
)
"""R 4.5 of the Debian before, where the workers have 4.6."""
FUTURES = ("future", "globals", "listenv", "parallelly")
"""Packages that are too old there; those of the image's base are taken, which hold for both versions of R."""


@contextmanager
def made(stack: Stack, base: debian_rootfs.DebianRoot, from_image: Sequence[str] = ()) -> Iterator[Laptop]:
    release = stack.workload.split("/")[1].removesuffix("-worker")
    with laptops.laptop(stack.node, stack.namespace, release, base, from_image) as one:
        yield Laptop(one.root, one.release, one.namespace)


@contextmanager
def own_release(stack: Stack, name: str, max_workers: int) -> Iterator[str]:
    """The namespace of another release of this name, which goes with it at the end; it has one worker at first."""
    namespace = f"laptop-{name}"
    values = {
        "image": stack.config["image"],
        "scheduler": {"homeGiB": 0, "resources": SMALL_POD},
        "worker": {"replicas": 1, "maxReplicas": max_workers, "resources": SMALL_POD},
    }
    try:
        install(stack.node, namespace, name, secrets.token_urlsafe(48), values)
        yield namespace
    finally:
        stack.node.kubectl("delete", "namespace", namespace, "--ignore-not-found", f"--timeout={patience(180):.0f}s")
