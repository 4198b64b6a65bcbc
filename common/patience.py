"""Time limits, and the one setting that widens them on a slow machine.

`FUTURE_KUBERNETES_PATIENCE` is a factor, 1 unless set. A machine that emulates its processor, such as a virtual one
without KVM, needs some 20. It changes how long this project waits, never what it does.
"""

from __future__ import annotations

import os

from common.errors import UserError

VARIABLE = "FUTURE_KUBERNETES_PATIENCE"


def patience(seconds: float) -> float:
    """Seconds to wait on this machine where an ordinary one gets `seconds`.

    Raises UserError where the variable is no number of 1 or more.
    """
    given = os.environ.get(VARIABLE) or "1"
    try:
        factor = float(given)
    except ValueError:
        factor = 0.0
    if not 1 <= factor <= 1000:
        raise UserError(f"{VARIABLE} is {given!r}\n    allowed: a number from 1 to 1000\n    fix:     unset {VARIABLE}")
    return seconds * factor
