"""Plays RStudio Server behind jupyter-rsession-proxy, as the sources of rstudio/rstudio have it.

It has the options that jupyter-rsession-proxy looks for in --help, reads rserver.conf, listens on a Unix socket, and
computes the browser's address from the root path and the headers of proxies (src/cpp/core/http/Request.cpp,
proxiedUri). Its page does what RStudio's does: a call that needs the cookie's CSRF token, a held request for events, a
redirection of R's help, a web application of the session below p/PORT/, and a websocket there. Its viewer opens the
address in ?view=, as rs_viewer has made it: session/FILE for a file of R's temporary folder (sessionTempDirUrl in
src/cpp/session/SessionModuleContext.cpp). A session is started as src/cpp/core/system/PosixSystem.cpp does
(launchChildProcess, runProcess), and hears nothing of SIGTERM (issue 8917).

Only the standard library: it also runs in the image. For tests: FAKE_RSERVER_CONF, FAKE_RSERVER_LACKS (options that an
old release has not), FAKE_RSERVER_TEMP (R's temporary folder, where it is not one that R has made by itself).
"""

from __future__ import annotations

import asyncio
import base64
import glob
import hashlib
import json
import os
import pwd
import re
import secrets
import signal
import sys
from urllib.parse import urljoin

OPTIONS = (
    "auth-none", "database-config-file", "help", "rsession-path", "rsession-which-r", "secure-cookie-key-file",
    "server-data-dir", "server-user", "verify-installation", "version", "www-frame-origin", "www-port",
    "www-root-path", "www-socket", "www-thread-pool-size", "www-verify-user-agent",
)  # fmt: skip
LACKS = os.environ.get("FAKE_RSERVER_LACKS", "").split()
PAGE = """<!doctype html><title>RStudio (stand-in)</title><link rel=icon href="data:,">
<h1>RStudio (stand-in)</h1><ul id=seen></ul><iframe name=viewer src="p/PORT/app/"></iframe>
<script>
const seen = (what) => document.getElementById("seen").appendChild(document.createElement("li")).textContent = what
const token = document.cookie.split("; ").find((c) => c.startsWith("rs-csrf-token=")).split("=")[1]
const viewed = new URLSearchParams(location.search).get("view")
if (viewed) document.querySelector("iframe").src = viewed + "?viewer_pane=1"
const post = (path, headers) => fetch(path, {method: "POST", body: "{}", headers})
async function start() {
  const init = await post("rpc/client_init", {"X-RS-CSRF-Token": token})
  seen("session " + (await init.json()).result)
  seen("without token " + (await post("rpc/client_init", {})).status)
  seen("events " + (await (await post("events/get_events", {"X-RS-CSRF-Token": token})).json()).result)
  seen("help " + await (await fetch("help/library/stats/html/lm.html")).text())
  const socket = new WebSocket(new URL("p/PORT/terminal/1/", location.href.replace(/^http/, "ws")))
  socket.onmessage = (message) => { seen("terminal " + message.data); socket.close() }
  socket.onclose = () => seen("end")
  socket.onopen = () => socket.send("typed")
}
start().catch((error) => seen("failed " + error))
</script>"""
STATUS = {200: "OK", 302: "Found", 400: "Bad Request", 404: "Not Found"}


class Rserver:
    """One server with its options, and at most one session."""

    def __init__(self, options: dict[str, str]) -> None:
        self.options = options
        self.root = "/" + options.get("www-root-path", "/").strip("/")
        self.session = 0
        self.application = 0

    async def run(self) -> None:
        application = await asyncio.start_server(self.serve_application, "127.0.0.1", 0)
        self.application = application.sockets[0].getsockname()[1]
        await asyncio.start_unix_server(self.serve, self.options["www-socket"])
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()

    def browsers_address(self, path: str, headers: dict[str, str]) -> str:
        """The address of a request as the browser has it."""
        scheme = headers.get("x-forwarded-proto", "http")
        host = headers.get("x-forwarded-host") or headers["host"]
        return f"{scheme}://{host}{self.root.rstrip('/')}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, headers = parse(head)
        await reader.readexactly(int(headers.get("content-length", 0)))
        address = self.browsers_address(path, headers)
        if found := re.match(r"/p/(\d+)(/.*)", path):
            return await self.pass_on(int(found[1]), found[2], head, reader, writer)
        status, body, extra = 200, "", {}
        if path.partition("?")[0] == "/":
            body = PAGE.replace("PORT", str(self.application))
            secure = "; Secure" if address.startswith("https:") else ""
            extra["Set-Cookie"] = f"rs-csrf-token={secrets.token_hex(8)}; Path={self.root}{secure}"
            extra["X-Frame-Options"] = "SAMEORIGIN"
        elif path == "/auth-sign-in":
            status, extra["Location"] = 302, urljoin(address, "./")
        elif path.startswith(("/rpc/", "/events/")) and method == "POST":
            token = re.search(r"rs-csrf-token=(\w+)", headers.get("cookie", ""))
            if not token or headers.get("x-rs-csrf-token") != token[1]:
                status = 400
            elif path == "/events/get_events":
                await asyncio.sleep(1)
                body = json.dumps({"result": "none"})
            else:
                self.session = self.session or self.start_session()
                body = json.dumps({"result": "started"})
        elif path == "/help/library/stats/html/lm.html":  # R's help server answers so
            status, extra["Location"] = 302, "../../../page"
        elif path == "/help/page":
            body = "Fitting Linear Models"
        elif found := re.match(r"/export/(\d+)", path):  # a download of so many MB
            body = "x" * 1_000_000 * int(found[1])
        elif found := re.match(r"/session/([\w.-]+)\?viewer_pane=1$", path):
            (name,) = glob.glob(os.path.join(os.environ.get("FAKE_RSERVER_TEMP", "/tmp/Rtmp*"), found[1]))
            with open(name) as file:
                body = file.read()
        elif path == "/as-seen":
            body = json.dumps({"address": address, "headers": headers, "options": self.options})
        else:
            status = 404
        answer(writer, status, body, extra)
        return None

    async def pass_on(
        self, port: int, path: str, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Connect the browser with a web application of the session, whatever they say, websockets too."""
        there, onward = await asyncio.open_connection("127.0.0.1", port)
        first, _, rest = head.partition(b"\r\n")
        onward.write(first.split(b" ")[0] + f" {path} HTTP/1.1\r\n".encode() + rest)
        await asyncio.gather(copy(reader, onward), copy(there, writer))

    async def serve_application(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A Shiny application, or the session's terminal."""
        _, _, headers = parse(await reader.readuntil(b"\r\n\r\n"))
        if headers.get("upgrade", "").lower() != "websocket":
            return answer(writer, 200, "<p id=application>an application</p>", {})
        key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        writer.write(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        while (start := await reader.readexactly(2))[0] & 0xF == 1:  # a short text
            mask = await reader.readexactly(4)
            text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(await reader.readexactly(start[1] & 0x7F)))
            text = b"heard " + text
            writer.write(bytes([0x81, len(text)]) + text)
        writer.close()
        return None

    def start_session(self) -> int:
        account = pwd.getpwuid(os.getuid())
        environ = {name: os.environ[name] for name in ("PATH", "MANPATH", "LANG", "SHELL") if name in os.environ}
        environ |= {"USER": account.pw_name, "LOGNAME": account.pw_name, "HOME": account.pw_dir}
        environ |= {"R_HOME": "/usr/local/lib/R", "RSTUDIO_VERSION": "2026.06.0+242"}
        # Its own, for the stand-in of the session.
        environ |= {name: value for name, value in os.environ.items() if name.startswith("FUTURE_KUBERNETES_R")}
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            session = self.options["rsession-path"]
            os.execve(session, [session, "-u", account.pw_name, "--launcher-token", "123"], environ)
        return pid


def parse(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    return method, path, {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}


def answer(writer: asyncio.StreamWriter, status: int, body: str, headers: dict[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} {STATUS[status]}", f"Content-Length: {len(body)}", "Content-Type: text/html"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n" + body).encode())
    writer.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def main() -> int:
    options: dict[str, str] = {}
    configuration = os.environ.get("FAKE_RSERVER_CONF", "/etc/rstudio/rserver.conf")
    if os.path.exists(configuration):
        with open(configuration) as file:
            options = dict(line.strip().split("=", 1) for line in file if "=" in line)
    for word in sys.argv[1:]:
        name, _, value = word.removeprefix("--").partition("=")
        if name not in OPTIONS or name in LACKS:
            print(f"unrecognised option '{word}'", file=sys.stderr)
            return 1
        options[name] = value
    if "help" in options:
        print("\n".join(f"  --{name} arg" for name in OPTIONS if name not in LACKS))
        return 0
    if "version" in options:
        print("2023.03.0+386 (Cherry Blossom) for Ubuntu Jammy" if LACKS else "2026.06.0+242 (Golden Wattle)")
        return 0
    if options["auth-none"] != "1" or options["server-user"] != pwd.getpwuid(os.getuid()).pw_name:
        return 1
    print("rserver: logs go to", os.environ.get("RS_LOGGER_TYPE", "syslog"), file=sys.stderr)
    if options.get("verify-installation") == "1":
        print(json.dumps(options))
        return 0
    asyncio.run(Rserver(options).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
