"""The first message of a worker's connection: it offers itself, or reports on itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..common import protocol, wire
from .dispatch import Dispatcher
from .idle import Activity
from .log import log
from .loss_causes import Outcomes, describe_end
from .pool import Pool
from .workers import Worker

_REFUSAL_SECONDS = 2.5 * protocol.RETRY_SECONDS


class Registration:
    """Greets workers, refuses those of another protocol version, and files their reports."""

    def __init__(
        self, pool: Pool, dispatcher: Dispatcher, outcomes: Outcomes, activity: Activity, environ: Mapping[str, str]
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._activity = activity
        self._release = environ.get("FUTURE_KUBERNETES_RELEASE", "")
        self._refused: dict[str, tuple[str, float]] = {}

    def greeted(self, worker: Worker, message: dict[str, Any]) -> None:
        """Answer the greeting, and do what it asks for."""
        refusal = protocol.worker_mismatch(protocol.stated(message), protocol.VERSION, self._release)
        if refusal:
            self._refuse(worker, refusal)
            return
        self._refused.pop(worker.pod, None)
        worker.say(wire.encode(ok=True, protocol=protocol.VERSION))
        if message["op"] == "worker":
            self._activity.worker_unused(max(0.0, float(message.get("unused", 0))))
            self._pool.enrol(worker)
            self._join(worker, message)
            return
        worker.enter("reporting")
        if message["op"] == "draining":
            self.draining(worker)
        elif message["op"] == "ended":
            self._file_end(message)
        worker.finish()

    def _join(self, worker: Worker, message: Mapping[str, Any]) -> None:
        lease, key = str(message.get("running", "")), str(message.get("session", ""))
        worker.bound = key
        if lease and self._dispatcher.returned(worker, lease, key, int(message.get("pid", 0))):
            return
        if lease:
            worker.say(wire.encode(op="cancel", id=lease))
            worker.enter("ending")  # idle once it has said what became of that
            return
        if key and key not in self._dispatcher.plans:
            worker.bound = ""
            worker.say(wire.encode(op="reset"))
        self._pool.make_idle(worker)

    def draining(self, worker: Worker) -> None:
        """Note that the worker's pod is draining: it finishes what it does."""
        self._pool.drain(worker)
        log(f"{worker.pod} is draining" + (" and finishes what it does" if worker.lease else ""))
        if not worker.lease:
            worker.say(wire.encode(op="leave"))

    def _file_end(self, message: Mapping[str, Any]) -> None:
        lease, status = str(message["id"]), message.get("status")
        if status == 0 and lease in self._pool.leased:
            self._pool.leased[lease].ended_well = True  # R was told to quit: parallel::stopCluster()
        text = describe_end(status, oom=bool(message.get("oom")), limit_mib=message.get("limit"))
        self._outcomes.record(lease, text)

    def _refuse(self, worker: Worker, refusal: str) -> None:
        if worker.pod not in self._refused:
            log(f"refused {worker.pod}: {refusal}")
        self._refused[worker.pod] = refusal, time.monotonic()
        worker.enter("refused")
        worker.say(wire.encode(error=refusal, protocol=protocol.VERSION))
        worker.finish()

    def refusal(self) -> str:
        """Reason for which workers are refused now, in words; empty while none is."""
        now = time.monotonic()
        texts = [text for text, at in self._refused.values() if now - at < _REFUSAL_SECONDS]
        return f"{len(texts)} workers are refused: {texts[-1]}" if texts else ""
