"""Kills the broker's process at a step of a task's life: ``before`` or ``after`` a method of the dispatcher."""

from __future__ import annotations

import os
import signal
from typing import Any

from image.broker.dispatch import Dispatcher


def install(when: str, method: str) -> None:
    """End this process at the first call of ``method``, as the kernel does when memory is short."""
    real = getattr(Dispatcher, method)

    def dies(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Dispatcher, method, dies)
