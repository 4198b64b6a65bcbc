"""The broker's client of the Kubernetes API asks a busy server a second time."""

from __future__ import annotations

from collections.abc import Callable
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
