"""Stand-in workers, any number in one process: one connection plays each running worker pod of a namespace.

    python -m bench.peers KUBECONFIG NAMESPACE HOST TOKEN_FILE ANSWER_FILE

For each running pod the process speaks the protocol of the agent (image/worker/agent.py): TLS by the release's token,
the greeting, results, reconnecting. It writes the pod's readiness, which kubelet would read from the agent's probe. No
R runs: the result of each task is the content of ANSWER_FILE, which a real R wrote once. The output is a line of JSON
for each event. SIGHUP makes all stand-ins disconnect and reconnect, as after a restart of the broker. SIGUSR1 holds
results back until SIGUSR2.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from image.common import protocol, tls, wire
from image.worker.dialer import retry_delay

_R_STARTS_SECONDS = 0.5
"""Start time of a fresh R, after which its agent connects."""
_API_CONNECTIONS = 4
_TRIES = 5
_PAUSE_SECONDS = 1.0


class Api:
    """Client of the API server, as the kubeconfig's user."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._address = urlsplit(cluster["server"]).netloc
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._context = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pem:  # ssl reads a client's key only from a file
            pem.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pem.flush()
            self._context.load_cert_chain(pem.name)
        self._own = threading.local()

    def _connect(self, timeout: float | None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, context=self._context, timeout=timeout)

    def patch(self, path: str, body: object) -> None:
        """Merge `body` into an object, unless the object is gone or has changed meanwhile.

        Repeated as kubelet does: a server with hundreds of new pods may be too busy to answer.
        """
        for left in reversed(range(_TRIES)):
            try:
                self._patch(path, body)
            except (OSError, http.client.HTTPException):
                self._own.connection.close()  # it opens again by itself; else it would wait for the lost answer
                if not left:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    def _patch(self, path: str, body: object) -> None:
        if not hasattr(self._own, "connection"):
            self._own.connection = self._connect(30)
        kind = {"Content-Type": "application/strategic-merge-patch+json"}
        self._own.connection.request("PATCH", path, json.dumps(body), kind)
        answer = self._own.connection.getresponse()
        said = answer.read()
        if answer.status not in (200, 404, 409):
            raise OSError(f"PATCH {path}: {answer.status} {said[:300]!r}")

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the existing objects, then their changes. Start again when the API server ends the watch."""
        while True:
            connection = self._connect(None)
            connection.request("GET", f"{path}&watch=1")
            answer = connection.getresponse()
            while line := answer.readline():
                yield json.loads(line)
            connection.close()


class Peers:
    """All stand-ins of a namespace."""

    def __init__(self, api: Api, namespace: str, host: str, context: ssl.SSLContext, answer: bytes) -> None:
        self._api, self._pods = api, f"/api/v1/namespaces/{namespace}/pods"
        self._host, self._context, self._answer = host, context, answer
        self._loop = asyncio.get_running_loop()
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._connections: set[asyncio.StreamWriter] = set()
        self._ready: set[str] = set()
        self._probes = ThreadPoolExecutor(_API_CONNECTIONS)
        self._may_answer = asyncio.Event()
        self._may_answer.set()

    def start(self) -> None:
        """Watch the pods in a thread."""
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        self._loop.add_signal_handler(signal.SIGUSR1, self._may_answer.clear)
        self._loop.add_signal_handler(signal.SIGUSR2, self._may_answer.set)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        for event in self._api.watch(f"{self._pods}?labelSelector=app.kubernetes.io/component%3Dworker"):
            self._loop.call_soon_threadsafe(self._seen, event["type"], event["object"])

    def _seen(self, kind: str, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        gone = kind == "DELETED" or "deletionTimestamp" in pod["metadata"]
        if gone and name in self._lives:
            self._lives.pop(name).cancel()
            say("gone", name)
        elif not gone and name not in self._lives and pod["status"].get("phase") == "Running":
            say("running", name)
            self._lives[name] = self._loop.create_task(self._live(pod))
        elif not gone and name in self._lives:
            # Repeated, as kubelet does. Once a waiting worker stayed unready; who had written that was not found.
            stands = all(container["ready"] for container in pod["status"]["containerStatuses"])
            if stands != (name in self._ready):
                self._report(pod, name in self._ready)

    def _hang_up(self) -> None:
        for connection in self._connections:
            connection.transport.abort()

    def _probe(self, pod: dict[str, Any], ready: bool) -> None:
        """Write the status that kubelet writes when the agent's /readyz changes, without kubelet's delay."""
        name = pod["metadata"]["name"]
        if ready != (name in self._ready):
            (self._ready.add if ready else self._ready.discard)(name)
            self._report(pod, ready)

    def _report(self, pod: dict[str, Any], ready: bool) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        conditions = [
            {"type": kind, "status": str(ready), "lastTransitionTime": now} for kind in ("Ready", "ContainersReady")
        ]
        containers = [{**container, "ready": ready} for container in pod["status"]["containerStatuses"]]
        status = {"status": {"conditions": conditions, "containerStatuses": containers}}
        self._probes.submit(self._write, f"{self._pods}/{pod['metadata']['name']}/status", status)

    def _write(self, path: str, body: object) -> None:
        try:
            self._api.patch(path, body)
        except Exception as error:  # a thread pool does not report errors
            say("error", path, text=repr(error))

    async def _live(self, pod: dict[str, Any]) -> None:
        attempt = 0
        await asyncio.sleep(_R_STARTS_SECONDS)
        while True:
            try:
                reader, writer = await asyncio.open_connection(self._host, wire.PORT, ssl=self._context)
            except OSError:
                await asyncio.sleep(retry_delay(attempt))
                attempt += 1
                continue
            attempt = 0
            self._connections.add(writer)
            try:
                await self._one_use(pod, reader, writer)
                pause = _R_STARTS_SECONDS
            except (OSError, EOFError):
                pause = retry_delay(0)
            finally:
                self._connections.discard(writer)
                writer.transport.abort()
            await asyncio.sleep(pause)

    async def _one_use(self, pod: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle a connection from its greeting to its end."""
        name = pod["metadata"]["name"]
        wire.watch_peer(writer.get_extra_info("socket"))
        greeting = {"op": "worker", "protocol": protocol.VERSION, "pod": name, "node": pod["spec"]["nodeName"]}
        writer.write(wire.encode(**greeting))
        if "error" in wire.decode(await _line(reader)):
            raise OSError("refused")
        say("connected", name)
        self._probe(pod, True)
        while True:
            message = wire.decode(await _line(reader))
            if message["op"] in ("retire", "reinstate"):
                retired = message["op"] == "retire"
                say("retired" if retired else "reinstated", name)
                self._probe(pod, not retired)
            elif message["op"] == "object":  # the session's files, which no stand-in needs
                await reader.readexactly(message["size"])
            elif message["op"] == "task":
                await reader.readexactly(message["size"])
                await self._may_answer.wait()
                answer = {"op": "result", "id": message["id"], "status": "done", "size": len(self._answer)}
                writer.write(wire.encode(**answer) + self._answer)


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return line


def say(event: str, pod: str, **more: object) -> None:
    """Print one event as a line of JSON."""
    print(json.dumps({"at": time.time(), "event": event, "pod": pod, **more}), flush=True)


async def _main(kubeconfig: str, namespace: str, host: str, token_file: str, answer_file: str) -> None:
    context = tls.context(tls.read_token(Path(token_file)), server=False)
    Peers(Api(Path(kubeconfig)), namespace, host, context, Path(answer_file).read_bytes()).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
