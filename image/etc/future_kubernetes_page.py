"""Extension of the Jupyter server: passes /cluster/ on to the broker's live page, behind the login.

Page, scripts and stream of events take the same way, so none of them can be had without the login.
"""

import asyncio
import contextlib
import os
from pathlib import Path

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

_RUN = Path(os.environ.get("FUTURE_KUBERNETES_RUN", "/run/future-kubernetes"))
_ANSWER_SECONDS = 4
"""The page gives up after five: it shall hear that it is the broker that does not answer."""
_STREAM_SECONDS = 900
"""After so long a stream ends; the page opens another one, for which the login is checked anew."""


class ClusterPage(JupyterHandler):
    """Answers with what the broker answers on its Unix socket."""

    _upstream = None

    async def prepare(self):
        """Send a person to the login page, and refuse a script's request without a login."""
        await super().prepare()
        if not self.current_user and self.path_args[0] in ("alive", "events"):
            raise web.HTTPError(403, "not logged in")

    @web.authenticated
    async def get(self, path):
        """Pass on one request."""
        try:
            reader, self._upstream = await asyncio.open_unix_connection(str(_RUN / "page.sock"))
            self._upstream.write(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
            async with asyncio.timeout(_ANSWER_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            raise web.HTTPError(502, "the broker does not answer; it restarts by itself within seconds") from None
        self.set_status(int(head[0].split(" ")[1]))
        self.set_header("Content-Type", head[1].partition(": ")[2])
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")  # nginx, as an Ingress, would hold events back
        # Resources of this origin only; `frame-ancestors` for the notebook and for RStudio's viewer.
        self.set_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
        )
        with contextlib.suppress(StreamClosedError, TimeoutError, asyncio.TimeoutError, OSError):
            async with asyncio.timeout(_STREAM_SECONDS):
                while piece := await reader.read(65536):
                    self.write(piece)
                    await self.flush()
        self._upstream.close()

    def on_connection_close(self):
        """The page was closed: let the broker know."""
        if self._upstream is not None:
            self._upstream.close()

    def on_finish(self):
        """Close the way to the broker, whatever happened."""
        self.on_connection_close()
        super().on_finish()


def _jupyter_server_extension_points():
    return [{"module": "future_kubernetes_page"}]


def _load_jupyter_server_extension(server):
    base = server.web_app.settings["base_url"]
    page = url_path_join(base, "cluster/")
    server.web_app.add_handlers(
        ".*$",
        [
            (page[:-1], web.RedirectHandler, {"url": page, "permanent": False}),
            (page + "([a-z.-]*)", ClusterPage),
        ],
    )
    # dashboard() in R reads it; Jupyter may run below a path.
    with contextlib.suppress(OSError):
        (_RUN / "page.path").write_text(f"{page}\n")
