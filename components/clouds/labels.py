"""Labels of resources, called tags on AWS."""

from __future__ import annotations

import re

from components.settings.model import Settings
from components.settings.names import short_name


def common_labels(settings: Settings) -> dict[str, str]:
    """Labels of every resource of the stack, by which a cost report finds them. The user's own labels win."""
    stack = short_name(re.sub(r"[^a-z0-9_-]+", "-", settings.stack.lower()), 63)
    return {"app": "future-kubernetes", "stack": stack, **settings.labels}
