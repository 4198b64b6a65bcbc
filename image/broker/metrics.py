"""The broker's state in the Prometheus text format, and the file systems that it measures for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .sessions import Services

_MEASURE_SECONDS = 2.0


@dataclass(frozen=True)
class Size:
    """Bytes of a file system, and those that a user has left."""

    total: int
    free: int


Labelled = tuple[dict[str, str], float]


@dataclass(frozen=True)
class Metric:
    """One metric: its name after ``future_kubernetes_``, its type, its help, and its values by labels."""

    name: str
    kind: str
    words: str
    values: Iterable[Labelled]

    def lines(self) -> Iterable[str]:
        """The metric as Prometheus reads it."""
        name = f"future_kubernetes_{self.name}"
        yield f"# HELP {name} {self.words}\n# TYPE {name} {self.kind}\n"
        for labels, value in self.values:
            text = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
            yield f"{name}{{{text}}} {value:.15g}\n" if text else f"{name} {value:.15g}\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def one(value: float) -> list[Labelled]:
    """The values of a metric without labels."""
    return [({}, value)]


def by(label: str, values: Mapping[str, float]) -> list[Labelled]:
    """The values of a metric with one label."""
    return [({label: name}, value) for name, value in values.items()]


class Volumes:
    """Measures the file systems of the pod's volumes, without waiting for one that hangs."""

    def __init__(self, paths: Mapping[str, str], statvfs: Callable[[str], os.statvfs_result] = os.statvfs) -> None:
        self._paths = paths
        self._statvfs = statvfs
        self._measuring: dict[str, asyncio.Future[Size | None]] = {}

    async def sizes(self) -> dict[str, Size]:
        """Size of each volume; one that does not answer in time is left out."""
        for name, path in self._paths.items():
            if name not in self._measuring:
                self._measuring[name] = self._start(path)
        if not self._measuring:
            return {}
        await asyncio.wait(self._measuring.values(), timeout=_MEASURE_SECONDS)
        found = {name: future.result() for name, future in self._measuring.items() if future.done()}
        for name in found:
            self._measuring.pop(name, None)
        return {name: size for name, size in found.items() if size is not None}

    def _start(self, path: str) -> asyncio.Future[Size | None]:
        # A network file system whose server is away blocks its thread for good. So no second thread joins the first,
        # and none is of the loop's executor, whose threads Python waits for when the broker stops.
        loop = asyncio.get_running_loop()
        measured: asyncio.Future[Size | None] = loop.create_future()

        def report(size: Size | None) -> None:
            if not measured.done():
                measured.set_result(size)

        def measure() -> None:
            size = self._measure(path)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the broker has stopped
                loop.call_soon_threadsafe(report, size)

        threading.Thread(target=measure, daemon=True).start()
        return measured

    def _measure(self, path: str) -> Size | None:
        try:
            found = self._statvfs(path)
        except OSError:
            return None
        used = found.f_blocks - found.f_bfree
        # As df does: blocks that only root may fill belong to neither number.
        return Size((used + found.f_bavail) * found.f_frsize, found.f_bavail * found.f_frsize)


def volumes_of(environ: Mapping[str, str], mounted: Callable[[str], bool] = os.path.ismount) -> Volumes:
    """The scheduler's home, and /shared if the release has one."""
    paths = {"home": environ.get("HOME", "/home/rstudio")}
    if mounted("/shared"):
        paths["shared"] = "/shared"
    return Volumes(paths)


class Metrics:
    """Collects the metrics of the broker's parts."""

    def __init__(self, services: Services, volumes: Volumes) -> None:
        self._pool, self._leases = services.pool, services.leases
        self._dispatcher, self._demand = services.dispatcher, services.demand
        self._scaler, self._outcomes = services.scaler, services.outcomes
        self._activity = services.activity
        self._volumes = volumes

    async def text(self) -> str:
        """All metrics as Prometheus reads them."""
        sizes = await self._volumes.sizes()
        metrics = (*self._of_workers(), *self._of_work(), *self._of_the_pod(sizes))
        return "".join(line for metric in metrics for line in metric.lines())

    def _of_workers(self) -> Iterable[Metric]:
        leased = self._pool.leased.values()
        draining = sum(1 for worker in leased if self._pool.draining(worker))
        states = {"idle": len(self._pool.idle), "busy": len(leased) - draining, "draining": draining}
        memory = {w.pod: w.memory_mib << 20 for w in self._pool.workers if w.memory_mib is not None}
        limits = {w.pod: w.memory_limit_mib << 20 for w in self._pool.workers if w.memory_limit_mib is not None}
        cpu = {w.pod: w.cpu for w in self._pool.workers if w.cpu is not None}
        maximum = self._scaler.maximum()
        yield Metric("workers", "gauge", "Connected workers by state.", by("state", states))
        yield Metric(
            "workers_wanted", "gauge", "Workers that sessions use or wait for, within maxWorkers.",
            one(self._wanted(maximum)),
        )  # fmt: skip
        yield Metric(
            "workers_maximum", "gauge", "Largest number of workers that sessions may ask for (maxWorkers).",
            [] if maximum is None else one(maximum),
        )  # fmt: skip
        yield Metric(
            "workers_joined_total", "counter", "Workers that connected for the first time.",
            one(self._pool.joined_total),
        )  # fmt: skip
        yield Metric(
            "worker_seconds_total", "counter", "Seconds that workers were connected, summed over the workers.",
            one(self._pool.connected_seconds()),
        )  # fmt: skip
        yield Metric(
            "worker_losses_total", "counter", "Workers that were lost while they ran something, by cause.",
            by("cause", self._outcomes.losses),
        )  # fmt: skip
        yield Metric(
            "worker_memory_bytes", "gauge", "Memory of the containers of workers that run something.",
            by("worker", memory),
        )  # fmt: skip
        yield Metric(
            "worker_memory_limit_bytes", "gauge", "Memory limit of these containers.", by("worker", limits)
        )  # fmt: skip
        yield Metric("worker_cpus", "gauge", "CPUs that these containers use.", by("worker", cpu))

    def _wanted(self, maximum: int | None) -> int:
        """Number of workers that plans want together, or that attach mode uses and waits for."""
        attached = len(self._pool.leased) + len(self._leases.queue) if self._leases.queue else 0
        wanted = max(self._demand.total(), attached)
        return wanted if maximum is None else min(wanted, maximum)

    def _of_work(self) -> Iterable[Metric]:
        plans = self._dispatcher.plans.values()
        sessions = {w.session_pid for w in self._pool.leased.values()} | {plan.pid for plan in plans}
        yield Metric("sessions", "gauge", "R sessions that have a plan or a worker.", one(len(sessions)))
        yield Metric(
            "waiting", "gauge", "Requests of attach mode that wait for a worker.", one(len(self._leases.queue))
        )  # fmt: skip
        yield Metric(
            "waiting_seconds", "gauge",
            "Longest time since a plan whose futures wait was given a worker, or attach mode asked for one.",
            one(max(self._dispatcher.waiting_seconds(), self._leases.waiting_seconds())),
        )  # fmt: skip
        yield Metric(
            "tasks_queued", "gauge", "Futures that wait for a worker.", one(sum(len(plan.queue) for plan in plans))
        )  # fmt: skip
        yield Metric("tasks_running", "gauge", "Futures that run.", one(sum(plan.running for plan in plans)))
        yield Metric(
            "tasks_total", "counter", "Futures by what became of them.",
            by("outcome", self._dispatcher.reports.counters),
        )  # fmt: skip
        yield Metric(
            "attached_total", "counter", "Workers that were attached to a session.", one(self._leases.attached_total)
        )  # fmt: skip
        yield Metric(
            "lost_total", "counter", "Workers that were lost while a session used them in attach mode.",
            one(self._leases.lost_total),
        )  # fmt: skip

    def _of_the_pod(self, sizes: Mapping[str, Size]) -> Iterable[Metric]:
        yield Metric(
            "start_time_seconds", "gauge", "When this broker started, in seconds of the epoch.",
            one(round(self._activity.started, 3)),
        )  # fmt: skip
        yield Metric(
            "volume_size_bytes", "gauge", "Size of the file system that holds a volume of the scheduler.",
            by("volume", {name: size.total for name, size in sizes.items()}),
        )  # fmt: skip
        yield Metric(
            "volume_free_bytes", "gauge", "Bytes that are free on it.",
            by("volume", {name: size.free for name, size in sizes.items()}),
        )  # fmt: skip
