"""Questions to Google Cloud, each refusal with its fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from components.clouds import checks

Answer = TypeVar("Answer")

LOGIN = "gcloud auth application-default login"
PLACES = "gcloud compute zones list, then pulumi config set region (or zone)"
EXPIRED = r"default credentials|invalid_grant|reauth|oauth2: |unauthenticated|401"
"""Pattern of Google's refusals of a login that is missing or has expired."""

FIXES = (
    (EXPIRED, LOGIN),
    (
        r"SERVICE_DISABLED|has not been used in project|it is disabled",
        "gcloud services enable compute.googleapis.com container.googleapis.com artifactregistry.googleapis.com "
        "iam.googleapis.com file.googleapis.com (then wait a minute)",
    ),
    (r"'projects/[^'/]*' was not found", "check the project's ID (pulumi config set project ...), and your role in it"),
    (r"invalid value for field '(region|zone)'|unknown (region|zone)|/(regions|zones)/[^' ]*' was not found", PLACES),
    (r"project.*(not found|404)|403|permission|forbidden", "check the project's ID, and your role in it (docs/gke.md)"),
)


def ask(question: str, call: Callable[[], Answer]) -> Answer:
    """The answer of a data source of Google Cloud. Raises CloudError with the reason and a fix."""
    return checks.ask(question, call, FIXES)
