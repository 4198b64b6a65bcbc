"""Image streaming: a worker's pod starts before its node has the whole image.

https://cloud.google.com/kubernetes-engine/docs/how-to/image-streaming has the requirements: Google's API of container
file systems, an image in Artifact Registry, Private Google Access for private nodes, and a role of the nodes.
"""

from __future__ import annotations

import pulumi
import pulumi_gcp as gcp

from components.clouds.google import rest
from components.clouds.google.api import ask
from components.clouds.google.settings import GkeSettings
from components.clouds.scope import Scope

API = "containerfilesystem.googleapis.com"
ADDRESS = "https://serviceusage.googleapis.com/v1"


def streams_images(settings: GkeSettings, lookup: pulumi.InvokeOptions) -> bool:
    """True if nodes of workers can stream the stack's image.

    Only an image that the stack builds is surely in Artifact Registry, and only a network that it makes surely has
    Private Google Access. Raises CloudError where Google does not answer: another answer would replace the nodes.
    """
    if settings.image or settings.network:
        return False

    def state() -> str:
        token = gcp.organizations.get_client_config(opts=lookup).access_token
        found = rest.fetch(f"{ADDRESS}/projects/{settings.project}/services/{API}?fields=state", "", token)
        return str(found.get("state"))

    return ask(f"whether project {settings.project} has the API for image streaming, {API}", state) == "ENABLED"


def allow_streaming(scope: Scope, settings: GkeSettings, identity: gcp.serviceaccount.Account) -> pulumi.Resource:
    """The nodes' permission to use the project's APIs, without which they download images as a whole."""
    return gcp.projects.IAMMember(
        f"{scope.name}-nodes-streaming",
        project=settings.project,
        role="roles/serviceusage.serviceUsageConsumer",
        member=identity.member,
        opts=scope.options(),
    )
