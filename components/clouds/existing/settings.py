"""The settings of a stack on a cluster that exists already: by kubeconfig, or the one on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from components.settings.errors import Problem
from components.settings.fields import ImageReference, KubeconfigPath, KubeconfigText, Line, setting
from components.settings.model import Settings


class ExistingSettings(Settings):
    """How an existing cluster is reached."""

    kubeconfig: KubeconfigPath | None = setting(
        None,
        "Path of a kubeconfig",
        default_words="$KUBECONFIG, else ~/.kube/config",
        shown=False,  # it may be a kubeconfig itself, with its credentials
        example="~/.kube/config",
    )
    context: Line | None = setting(
        None, "Context in the kubeconfig", default_words="the current one", example="my-context"
    )


class LocalSettings(ExistingSettings):
    """The Kubernetes that `make up` starts on this machine."""

    cloud: Literal["local"] = "local"
    image: ImageReference = setting(
        description="Image to run, which `make up` builds and passes on",
        missing="the image that `make up` builds and hands over",
        fix="make up",
        example="127.0.0.1:5000/future-kubernetes:dev",
    )


class KubeconfigSettings(ExistingSettings):
    """Any cluster that a kubeconfig reaches, also one that another stack made."""

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
        yield from self.packages_without_build("rPackages", "aptPackages")
        if self.kubeconfig and self.kubeconfig_text:
            fix = "pulumi config rm kubeconfig"
            yield Problem("kubeconfig", "set, and so is kubeconfigText", "one of them", fix, others=("kubeconfigText",))
