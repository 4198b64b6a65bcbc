"""The secrets that a stack draws: the IDE's password, unless it is set, and the token of workers and broker."""

from __future__ import annotations

import pulumi
from pulumi_random import RandomPassword

ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Letters and digits without those that look alike (0 O o, 1 l I), since people type passwords.

Another alphabet or length would replace every stack's password and token.
"""

PASSWORD_LENGTH = 16
TOKEN_LENGTH = 48


def random_text(name: str, length: int, opts: pulumi.ResourceOptions) -> pulumi.Output[str]:
    """A random text of `ALPHABET`, drawn once and kept as a secret in the stack's state."""
    drawn = RandomPassword(
        name,
        length=length,
        # "Special" characters are whatever `override_special` lists, and the only ones without the other classes.
        special=True,
        override_special=ALPHABET,
        upper=False,
        lower=False,
        numeric=False,
        opts=opts,
    )
    return pulumi.Output.secret(drawn.result)
