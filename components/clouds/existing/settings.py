"""The settings of a stack on a cluster that exists already: by kubeconfig, or the one on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from components.settings.errors import Problem
from components.settings.fields import ImageReference, KubeconfigPath, KubeconfigText, Line, setting
from components.settings.model import Settings


def kubeconfig_path(default_words: str) -> Any:
    """The setting `kubeconfig`. It is never shown, since it may be a kubeconfig itself, with its credentials."""
    return setting(None, "Path of a kubeconfig", default_words=default_words, shown=False, example="~/.kube/config")


class ExistingSettings(Settings):
    """How an existing cluster is reached."""

    kubeconfig: KubeconfigPath | None = kubeconfig_path("$KUBECONFIG, else ~/.kube/config")
    context: Line | None = setting(
        None, "Context in the kubeconfig", default_words="the current one", example="my-context"
    )


class LocalSettings(ExistingSettings):
    """This machine: the Kubernetes that `make up` starts on it."""

    cloud: Literal["local"] = "local"
    kubeconfig: KubeconfigPath | None = kubeconfig_path("the one that `make up` writes")
    image: ImageReference = setting(
        description="Image to run, which `make up` builds and passes on",
        missing="the image that `make up` builds and hands over",
        fix="make up",
        example="127.0.0.1:5000/future-kubernetes:dev",
    )


class KubeconfigSettings(ExistingSettings):
    """Any existing cluster that a kubeconfig reaches, also one that another stack created."""

    cloud: Literal["kubeconfig"] = "kubeconfig"
    image: ImageReference = setting(
        description="Image to run; a tag is pinned to its digest",
        missing="the reference of an image that the cluster can pull (this cloud brings no registry of its own)",
        example="ghcr.io/org/future-kubernetes:1.0",
    )
    kubeconfig_text: KubeconfigText | None = setting(
        None,
        "A kubeconfig itself, such as another stack's output: pulumi stack output kubeconfig --stack OTHER "
        "--show-secrets | pulumi config set --secret kubeconfigText",
        secret=True,
    )

    def contradictions(self) -> Iterator[Problem]:
        """Adds: two kubeconfigs, and packages, since no image is built."""
        yield from super().contradictions()
        for name, value in (("rPackages", self.r_packages), ("aptPackages", self.apt_packages)):
            if value:
                only = "only where the image is built; on this cloud it is given, by image"
                yield Problem(name, "set", only, f"pulumi config rm {name}")
        if self.kubeconfig and self.kubeconfig_text:
            fix = "pulumi config rm kubeconfig"
            yield Problem("kubeconfig", "set, and so is kubeconfigText", "one of them", fix, others=("kubeconfigText",))
