"""The agent's connection to the broker while it lasts; all that is said on it, and its loss."""

from __future__ import annotations

from typing import Any

from ..common import wire
from ..common.blob import Blob
from .channel import Channel, ChannelError
from .dialer import Dialer
from .work import Work


class Line:
    """A connection that comes and goes."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self.channel: Channel | None = None
        """None while there is no connection."""

    def dial(self, work: Work | None, session: str, unused: int) -> float:
        """Dial once, and say what is still run or held; seconds to pause after a failure, 0 after success."""
        running = {"running": work.id, "pid": work.pid} if work is not None else {}
        sock, pause = self._dialer.offer(session=session, unused=unused, **running)
        if sock is None:
            return pause
        self.channel = Channel(sock, watch=True)
        if work is not None:
            work.sent = False  # a result that was sent before may not have arrived
        return 0.0

    def say(self, message: dict[str, Any], body: Blob | None = None) -> bool:
        """Send a message and its body; False when there is no connection, or none any more."""
        if self.channel is None:
            return False
        try:
            self.channel.send(wire.encode(**message))
            for piece in body.pieces() if body is not None else ():
                self.channel.send(piece)
        except ChannelError:
            self.close()
            return False
        return True

    def close(self) -> None:
        """End the connection."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
