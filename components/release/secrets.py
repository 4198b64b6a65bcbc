"""The secrets that a stack draws: the IDE's password, unless it is set, the token of workers and broker,
and the key of the cookies of a single sign-on."""

from __future__ import annotations

import pulumi
from pulumi_random import RandomPassword

ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Letters and digits without those that look alike (0 O o, 1 l I), since people type passwords.

Another alphabet or length would replace every stack's password and token.
"""

PASSWORD_LENGTH = 16
TOKEN_LENGTH = 48
COOKIE_SECRET_LENGTH = 32
"""Of the key of oauth2-proxy's cookies, which takes 16, 24 or 32 bytes only."""


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
