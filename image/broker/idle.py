"""When workers that nobody uses are to go. Pure: the broker asks, logs and acts."""

from __future__ import annotations

CHECK_SECONDS = 10.0
"""How often the broker asks."""

SETTLE_CHECKS = 6
"""So many checks after its start, its workers have come back and said since when they are unused; it asks from then."""


def due(now: float, last_active: float, idle_minutes: float) -> bool:
    """Whether to scale to nothing.

    Args:
        now: seconds of the epoch.
        last_active: when a session last used, let go or asked for a worker, or for another number of them.
        idle_minutes: after how many minutes without any of that; 0 is never.
    """
    return idle_minutes > 0 and now - last_active >= idle_minutes * 60


def expired(now: float, created: float, ttl_hours: float) -> bool:
    """Whether the release has outlived its time.

    Args:
        now: seconds of the epoch.
        created: when the release was first deployed, likewise.
        ttl_hours: how many hours it was given; 0 is for ever.
    """
    return ttl_hours > 0 and now - created >= ttl_hours * 3600
