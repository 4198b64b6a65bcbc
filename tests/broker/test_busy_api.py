"""The broker's client of the Kubernetes API asks a busy server a second time, and reports answers that break off."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest

from image.broker.kubernetes import KubeError, KubernetesApi

from .kubernetes_api import Api, environ

WAIT_SECONDS = 2
CALLS: dict[str, Callable[[KubernetesApi], object]] = {
    "wanted": KubernetesApi.wanted,
    "scale": lambda client: client.scale(3),
    "status": lambda client: client.status(()),
}

each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
def client(api: Api, tmp_path: Path) -> KubernetesApi:
    """A client that waits 2 s instead of 5 for an answer."""
    return KubernetesApi({**environ(api, tmp_path), "FUTURE_KUBERNETES_API_SECONDS": str(WAIT_SECONDS)})


@each_call
@pytest.mark.parametrize("busy", ["silence", "1"])
def test_a_call_that_was_not_served_is_made_again(
    client: KubernetesApi, api: Api, call: Callable[[KubernetesApi], object], busy: str
) -> None:
    usual = call(client)
    api.busy, api.replicas = [busy], 2
    assert call(client) == usual
    assert not api.busy
    if call is CALLS["scale"]:
        assert api.replicas == 3


def test_no_later_call_of_a_status_is_lost(client: KubernetesApi, api: Api) -> None:
    usual = client.status(())
    api.busy = ["", "", "silence"]
    assert client.status(()) == usual
    assert not api.busy


@each_call
def test_silence_is_reported_after_the_second_time(
    client: KubernetesApi, api: Api, call: Callable[[KubernetesApi], object]
) -> None:
    api.busy = ["silence", "silence"]
    with pytest.raises(KubeError, match=r"^the Kubernetes API did not answer within 2 s$") as error:
        call(client)
    assert (error.value.kind, api.replicas, api.busy) == ("unreachable", 2, [])


def test_a_client_asks_only_once_more(client: KubernetesApi, api: Api) -> None:
    api.busy = ["0", "", "0"]
    with pytest.raises(KubeError, match=r"^the Kubernetes API refused: ") as error:
        client.status(())
    assert error.value.kind == "refused"


def test_a_refusal_for_good_is_not_repeated(client: KubernetesApi, api: Api) -> None:
    api.status = 422
    with pytest.raises(KubeError, match=r"^the Kubernetes API refused: no$"):
        client.wanted()
    assert len(api.read) == 1


@pytest.mark.parametrize(("status", "kind"), [(403, "permission"), (422, "refused"), (503, "refused")])
@pytest.mark.parametrize("breaks", [False, True], ids=["stops", "breaks"])
def test_a_refusal_whose_reason_does_not_come_is_one(
    client: KubernetesApi, api: Api, status: int, kind: str, breaks: bool
) -> None:
    api.status, api.body_sent, api.breaks = status, 0, breaks
    with pytest.raises(KubeError, match=f": {status} {HTTPStatus(status).phrase}") as error:
        client.wanted()
    assert error.value.kind == kind


def test_a_refusal_for_now_is_repeated_without_its_reason(client: KubernetesApi, api: Api) -> None:
    api.busy, api.body_sent, api.breaks = ["0", "0"], 0, True
    with pytest.raises(KubeError, match=r": 429 Too Many Requests$"):
        client.wanted()
    assert not api.busy


@pytest.mark.parametrize(("breaks", "reason"), [(False, "did not answer within 2 s"), (True, "cannot be reached")])
def test_half_an_answer_is_none(client: KubernetesApi, api: Api, breaks: bool, reason: str) -> None:
    api.body_sent, api.breaks = 0.5, breaks
    with pytest.raises(KubeError, match=f"^the Kubernetes API {reason}") as error:
        client.wanted()
    assert error.value.kind == "unreachable"
