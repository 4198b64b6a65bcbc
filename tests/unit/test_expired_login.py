"""An expired login at each question of `pulumi up`: the update stops with the command, or says what it did not check.

A fault in an answer is none of these: it stops the program.

`pulumi destroy` asks no cloud but through its providers; the wait for disks is in test_destroy_guard.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import pulumi
import pytest

from components.clouds import checks
from components.clouds.google import rest
from components.clouds.google.rest import RestError
from tests.unit.aws_cloud import eks
from tests.unit.both_clouds import MOST
from tests.unit.cloud_mocks import Recording, Refused, refusal_of, unchecked
from tests.unit.google_cloud import gke, kubernetes_engine

pytestmark = pytest.mark.usefixtures("installed_tools")

CONFIG: dict[str, dict[str, Any]] = {
    "gke": {**MOST["gke"], "kubernetesVersion": "1.35"},
    "eks": {**MOST["eks"], "kubernetesVersion": "1.35", "nodeRelease": "latest"},
}
RUN = {"gke": gke, "eks": eks}
REASON = {
    "gke": 'oauth2: "invalid_grant" "reauth related error (invalid_rapt)"',
    "eks": "operation error: https response error StatusCode: 403, ExpiredToken: The security token is expired",
}
LATE = {
    "aws:eks/getAddonVersion:getAddonVersion",
    "aws:ssm/getParameter:getParameter",
}
"""Questions about what the update itself makes: they need the new cluster's version. A login that expires before one of
them stops the update with the command, and the next update continues."""

LOGIN = {"gke": "gcloud auth application-default login", "eks": "aws sso login"}


@functools.cache
def questions(cloud: str) -> list[str]:
    """The data sources that a stack with most settings asks, each once."""
    return sorted({token for token, _, _ in RUN[cloud](CONFIG[cloud]).asked})


def broken(*_anything: Any) -> dict[str, Any]:
    """An answer that a test did not expect."""
    raise AssertionError("an unexpected question")


def refused_or_done(run: Callable[[], Recording]) -> tuple[Refused | None, Recording | None]:
    """The refusal of a run, or its recording."""
    try:
        return None, run()
    except Refused as refused:
        return refused, None


def with_expired_login(cloud: str, question: str) -> tuple[Refused | None, Recording | None]:
    """Runs the stack, and refuses one data source."""

    def refuse(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError(REASON[cloud])

    return refused_or_done(lambda: RUN[cloud](CONFIG[cloud], {question: refuse}))


def late_fix(message: str) -> bool:
    """True for a message with AWS's reason, the command that logs in, and what the next update does."""
    return all(part in message for part in ("ExpiredToken", LOGIN["eks"], "pulumi up, which continues"))


def test_stacks_of_this_test_ask_most_questions() -> None:
    assert len(questions("gke")) >= 8
    assert len(questions("eks")) >= 15


@pytest.mark.parametrize("cloud", RUN)
def test_expired_login_stops_the_update_or_says_what_is_unchecked(cloud: str) -> None:
    faults = []
    for question in questions(cloud):
        refused, done = with_expired_login(cloud, question)
        if done:
            right = REASON[cloud][:20] in unchecked(done)
        elif question in LATE:
            right = refused is not None and isinstance(refused.error, pulumi.RunError) and late_fix(str(refused))
        else:
            right = refused is not None and refused.nothing_was_made and LOGIN[cloud] in str(refused)
        faults += [] if right else [question]
    assert faults == []


@pytest.mark.parametrize("question", sorted(LATE))
def test_late_questions_are_those_that_need_the_cluster(question: str) -> None:
    refused, done = with_expired_login("eks", question)
    assert done is None
    assert refused is not None
    assert not refused.nothing_was_made, "asked at the start: not late any more"


def test_missing_right_to_push_stops_before_anything_is_made() -> None:
    def refuse(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError("AccessDeniedException: not authorized to perform: ecr:GetAuthorizationToken")

    message = refusal_of(lambda: eks({}, {"aws:ecr/getAuthorizationToken:getAuthorizationToken": refuse}))
    assert "the login to the account's image registry" in message
    assert "docs/eks.md lists" in message


@pytest.mark.parametrize("host", ["//container.", "//serviceusage.", "//cloudbilling."])
def test_expired_google_login_stops_the_update_or_is_said(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    known = kubernetes_engine()

    def fetch(url: str, project: str, token: str) -> dict[str, Any]:
        if host in url:
            raise RestError("401 Request had invalid authentication credentials")
        return known(url, project, token)

    monkeypatch.setattr(rest, "fetch", fetch)
    refused, done = refused_or_done(lambda: gke(CONFIG["gke"], {"never-called": lambda _args: {}}))
    if done:
        assert "401 Request had invalid authentication credentials" in unchecked(done)
    else:
        assert refused is not None
        assert refused.nothing_was_made
        assert LOGIN["gke"] in str(refused)


@pytest.mark.parametrize("cloud", RUN)
def test_fault_in_an_answer_is_no_refusal_of_the_cloud(cloud: str) -> None:
    """Otherwise a test whose mock fails would pass, since most checks go on without an answer."""
    swallowed = []
    for question in questions(cloud):
        refused, _ = refused_or_done(lambda asked=question: RUN[cloud](CONFIG[cloud], {asked: broken}))  # type: ignore[misc]
        swallowed += [] if refused and isinstance(refused.error, AssertionError) else [question]
    assert swallowed == []


@pytest.mark.parametrize("host", ["//container.", "//serviceusage.", "//cloudbilling."])
def test_fault_in_a_request_is_no_refusal_of_google(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    known = kubernetes_engine()
    monkeypatch.setattr(rest, "fetch", lambda url, *more: broken() if host in url else known(url, *more))
    refused, _ = refused_or_done(lambda: gke(CONFIG["gke"], {"never-called": broken}))
    assert refused is not None
    assert isinstance(refused.error, AssertionError)


LOOKUPS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "ask": lambda call: checks.ask("the question", call, []),
    "ask_or_none": checks.ask_or_none,
    "ask_or_say": lambda call: checks.ask_or_say("the check", call),
    "found_or_none": lambda call: checks.found_or_none(call, "found"),
}


@pytest.mark.parametrize("fault", [AssertionError, KeyError, AttributeError, TypeError, IndexError])
@pytest.mark.parametrize("way", LOOKUPS)
def test_fault_of_the_program_goes_through_every_lookup(way: str, fault: type[Exception]) -> None:
    def call() -> None:
        raise fault("found")

    with pytest.raises(fault):
        LOOKUPS[way](call)
