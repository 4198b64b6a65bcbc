"""Widens the bounds of tests by the setting for slow machines."""

from __future__ import annotations

import pytest

from common.patience import patience


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        bound = item.get_closest_marker("timeout")
        if bound and bound.args:
            item.add_marker(pytest.mark.timeout(patience(bound.args[0])), append=False)
