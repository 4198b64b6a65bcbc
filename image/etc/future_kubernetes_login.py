"""Login of the Jupyter server, which is the only one: the password of the stack's Secret.

The password is read from the mounted Secret at each login, so that a change takes effect without a restart, which would
end the R sessions. It is never in a file of the image, in an argument or in a variable.
"""

import asyncio
import hmac
import os
import time
from pathlib import Path

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.auth.identity import PasswordIdentityProvider
from jupyter_server.auth.login import LoginFormHandler

_PASSWORD = Path(os.environ.get("FUTURE_KUBERNETES_PASSWORD_FILE", "/etc/future-kubernetes/secret/password"))
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 4.0
_WAITING = 10
"""Guesses that may wait at a time; further ones are refused unread, so that they hold no memory."""


class Guesses:
    """Checks one guess at a time, and waits after each wrong one: 0.5 s, then twice as long, 4 s at most.

    It counts for all addresses together: through a port-forward, everybody has the same one. A right password resets
    the delay. A person who logs in while another guesses waits 40 s at most, or is asked to try again.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._delay = 0.0
        self._open_at = 0.0
        self._waiting = 0

    async def check(self, is_right):
        """Return what ``is_right()`` returns once it is this guess's turn; None if too many wait already."""
        if self._waiting >= _WAITING:
            return None
        self._waiting += 1
        try:
            async with self._lock:
                await asyncio.sleep(self._open_at - time.monotonic())
                right = is_right()
                self._delay = 0.0 if right else min(_LONGEST_DELAY, 2 * self._delay or _FIRST_DELAY)
                self._open_at = time.monotonic() + self._delay
                return right
        finally:
            self._waiting -= 1


_guesses = Guesses()


class SlowLoginHandler(LoginFormHandler):
    """The login page of Jupyter, with wrong guesses slowed down."""

    @allow_unauthenticated
    async def post(self):
        """Check a password."""
        password = self.get_argument("password", default="")
        right = await _guesses.check(lambda: self.identity_provider.passwd_check(password))
        if right:
            super().post()
        elif right is None:
            self.set_status(429)
            self.set_header("Retry-After", "60")
            self._render(message={"error": "Too many wrong passwords at once. Try again in a minute."})
        else:
            self.log.warning("Wrong password from %s", self.request.remote_ip)
            self.set_status(401)
            self._render(message={"error": "Invalid credentials"})


class SecretIdentityProvider(PasswordIdentityProvider):
    """Accepts the current password of the Secret; an empty one accepts none."""

    def passwd_check(self, password):
        """True if this is the password."""
        now = _PASSWORD.read_text().strip().encode()
        return bool(now) and hmac.compare_digest(password.encode(), now)
