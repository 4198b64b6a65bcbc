"""The setting `egress`: rules of the network policies, and the destinations that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from components.clouds import MODELS
from components.settings.errors import SettingsError
from components.settings.loading import parse
from tests.unit.both_clouds import own_release
from tests.unit.google_cloud import gke

LOCAL = {"cloud": "local", "image": "127.0.0.1:5000/i:dev"}


def refusal(given: object) -> str:
    with pytest.raises(SettingsError) as caught:
        parse({**LOCAL, "egress": given}, MODELS, stack="dev")
    return str(caught.value)


@pytest.mark.usefixtures("installed_tools")
def test_each_destination_becomes_a_rule_beside_those_of_chart_values() -> None:
    more: dict[str, Any] = {"to": [{"podSelector": {}}]}
    done = gke(
        {
            "egress": "10.20.0.7:5432 10.20.0.0/16:443 [2001:db8::/32]:443",
            "chartValues": {"networkPolicy": {"extraEgress": [more]}},
        }
    )
    expected = [("10.20.0.7/32", 5432), ("10.20.0.0/16", 443), ("2001:db8::/32", 443)]
    assert own_release(done).inputs["values"]["networkPolicy"]["extraEgress"] == [
        *(
            {"to": [{"ipBlock": {"cidr": cidr}}], "ports": [{"protocol": "TCP", "port": port}]}
            for cidr, port in expected
        ),
        more,
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("db.internal:5432", "`getent ahosts db.internal` prints them"),
        ("10.20.0.7", "it does not end in a port"),
        ("10.20.0.0/16", "it does not end in a port"),
        ("10.20.0.7:", "it does not end in a port"),
        ("10.20.0.7:0", "it does not end in a port"),
        ("10.20.0.7:65536", "it does not end in a port"),
        ("10.20.0.7:postgres", "it does not end in a port"),
        (":5432", "it does not end in a port"),
        ("10.20.0.1/16:443", "has host bits set"),
        ("10.20.0.0/33:443", "does not appear to be an IPv4 or IPv6 network"),
        ("300.1.1.1:443", "does not appear to be an IPv4 or IPv6 network"),
        ("169.254.169.254:80", "where clouds hand out the credentials of a node"),
        ("0.0.0.0/0:443", "where clouds hand out the credentials of a node"),
        ("[::/0]:443", "where clouds hand out the credentials of a node"),
        ("https://10.20.0.7:443", "is a name"),
    ],
)
def test_a_destination_that_no_policy_can_hold_is_refused(given: str, message: str) -> None:
    text = refusal(given)
    assert message in text
    assert "fix:     pulumi config set egress 10.20.0.7:5432,10.30.0.0/16:443" in text


def test_destinations_are_kept_in_their_usual_notation_once() -> None:
    given = ["10.20.0.7:5432", "10.20.0.7/32:5432", "[2001:DB8::]:443"]
    settings = parse({**LOCAL, "egress": given}, MODELS, stack="dev")
    assert settings.egress == ("10.20.0.7/32:5432", "[2001:db8::/128]:443")
