"""The program on a mocked cloud, with its example stack and its refusals."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.unit.cloud_mocks import Answer, Recording, refusal_of, run, stack_config


@dataclass(frozen=True, eq=False)
class MockedProgram:
    """Runs the program on one cloud. Equal runs are cached.

    config: the settings that the cloud requires. stack: the name of its example stack.
    """

    config: Mapping[str, Any]
    answers: Mapping[str, Answer]
    computed: Callable[[str, str, dict[str, Any]], dict[str, Any]]
    stack: str

    def run(
        self, config: Mapping[str, Any] | None = None, answers: Mapping[str, Answer] | None = None, **more: Any
    ) -> Recording:
        """Runs the program with settings in addition to the required ones."""
        wanted = {**self.config, **(config or {})}
        if answers:
            return run(wanted, {**self.answers, **answers}, self.computed, **more)
        return self._cached(json.dumps(wanted, sort_keys=True), json.dumps(more, sort_keys=True))

    @functools.cache  # noqa: B019 - one object a cloud, which lives as long as its module
    def _cached(self, config: str, more: str) -> Recording:
        return run(json.loads(config), self.answers, self.computed, **json.loads(more))

    @functools.cache  # noqa: B019
    def team(self, *, preview: bool = False) -> Recording:
        """The example stack."""
        return run(stack_config(self.stack), self.answers, self.computed, stack_name=self.stack, preview=preview)

    def refused(self, config: Mapping[str, Any], answers: Mapping[str, Any] | None = None) -> str:
        """The message with which these settings are refused, before anything is created."""
        return refusal_of(lambda: self.run(config, {"never-called": lambda _args: {}, **(answers or {})}))
