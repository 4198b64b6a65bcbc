"""The Artifact Registry repository of the stack's image."""

from __future__ import annotations

import pulumi
import pulumi_gcp as gcp

from components.clouds.base import ImageRegistry
from components.clouds.google.settings import GkeSettings
from components.clouds.scope import Scope
from components.settings.names import short_name

KEPT_VERSIONS = 10
MAX_AGE_SECONDS = 30 * 24 * 3600
"""Age after which an image is deleted, unless it is one of the recent versions."""


def create_registry(
    scope: Scope, settings: GkeSettings, suffix: pulumi.Output[str], identity: gcp.serviceaccount.Account
) -> tuple[ImageRegistry, pulumi.Resource]:
    """A repository, and the nodes' permission to pull from it and from no other."""
    repository = gcp.artifactregistry.Repository(
        f"{scope.name}-images",
        repository_id=suffix.apply(lambda unique: f"{short_name(scope.name, 50)}-{unique}"),
        location=settings.region,
        format="DOCKER",
        description=f"Image of {scope.name}",
        labels=dict(scope.labels),
        # INHERITED scans where the project has Container Scanning enabled, which is billed by the image.
        vulnerability_scanning_config={"enablement_config": "INHERITED"},
        cleanup_policies=[
            {"id": "keep-recent", "action": "KEEP", "most_recent_versions": {"keep_count": KEPT_VERSIONS}},
            {"id": "delete-old", "action": "DELETE", "condition": {"older_than": f"{MAX_AGE_SECONDS}s"}},
        ],
        opts=scope.options(),
    )
    pull = gcp.artifactregistry.RepositoryIamMember(
        f"{scope.name}-nodes-pull",
        location=repository.location,
        repository=repository.name,
        role="roles/artifactregistry.reader",
        member=identity.member,
        opts=scope.options(),
    )
    server = f"{settings.region}-docker.pkg.dev"
    client = gcp.organizations.get_client_config_output(opts=scope.lookup_output)
    registry = ImageRegistry(
        repository=repository.repository_id.apply(
            lambda repository_id: f"{server}/{settings.project}/{repository_id}/future-kubernetes"
        ),
        server=server,
        username="oauth2accesstoken",
        password=client.access_token,
    )
    return registry, pull
