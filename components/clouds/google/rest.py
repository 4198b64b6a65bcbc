"""Requests to Google's APIs for what the provider has no data source for, with the caller's own token."""

from __future__ import annotations

import gzip
import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from components.clouds.checks import Refusal

ANSWER_SECONDS = 30
"""Limit of one request."""


class RestError(Refusal):
    """The API refused a request or did not answer."""


def fetch(url: str, project: str, token: str) -> dict[str, Any]:
    """The API's answer to one request. Raises RestError with the API's own reason.

    project: pays for the request, where the API refuses a user's login otherwise; this takes a permission more
    (serviceusage.services.use). Google compresses only for programs that name gzip as what they are, too.
    """
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept-Encoding": "gzip",
        "User-Agent": "future-kubernetes (gzip)",
    }
    if project:
        headers["X-Goog-User-Project"] = project
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (an https address of Google)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
            body = answer.read()
            text = gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body
        found: dict[str, Any] = json.loads(text)
    except urllib.error.HTTPError as error:
        raise RestError(f"{error.code} {_reason(error)}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise RestError(str(error)) from error
    return found


def _reason(refusal: urllib.error.HTTPError) -> str:
    """The message of Google's error; the beginning of another text; the status where no text comes."""
    try:
        body = refusal.read()
    except (OSError, http.client.HTTPException):
        return refusal.reason
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace") or refusal.reason
