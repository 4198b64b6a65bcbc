"""Reads the broker's metrics as Prometheus does."""

from __future__ import annotations

import socket

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Bed


def get(bed: Bed, path: str) -> str:
    """The broker's whole answer to a GET."""
    with socket.create_connection(("127.0.0.1", bed.ports["http"]), timeout=5) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return sock.makefile(newline="").read()


def families(bed: Bed) -> list[Metric]:
    """The metrics that the broker exports now."""
    return list(text_string_to_metric_families(get(bed, "/metrics").partition("\r\n\r\n")[2]))


def values(bed: Bed) -> dict[str, float]:
    """Values by the metric's own name, with the labels' values behind it: ``workers busy``."""
    return {
        " ".join((sample.name.removeprefix("future_kubernetes_"), *sample.labels.values())): sample.value
        for family in families(bed)
        for sample in family.samples
    }
