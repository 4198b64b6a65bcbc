"""Bounds each test in time, and widens the bounds by the setting for slow machines."""

from __future__ import annotations

import pytest

from common.patience import patience

LONGEST_SECONDS = 600
"""Bound of a test that has none of its own: a test that waits for ever fails with the place where it waits."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        bound = item.get_closest_marker("timeout")
        seconds = bound.args[0] if bound and bound.args else LONGEST_SECONDS
        item.add_marker(pytest.mark.timeout(patience(seconds)), append=False)
