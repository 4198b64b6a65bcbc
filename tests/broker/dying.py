"""Kills the broker's process at a step of a task's life: ``before`` or ``after`` a method of dispatcher or plans."""

from __future__ import annotations

import os
import signal
from typing import Any

from image.broker.dispatch import Dispatcher
from image.broker.open_plans import OpenPlans


def install(when: str, method: str) -> None:
    """End this process at the first call of ``method``, as the kernel does when memory is short."""
    owner = Dispatcher if hasattr(Dispatcher, method) else OpenPlans
    real = getattr(owner, method)

    def dies(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, method, dies)
