"""oauth2-proxy itself, with the chart's arguments: who gets in, and what the IDE sees."""

import http.client
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.patience import patience
from tests.broker.conftest import free_port
from tests.chart.conftest import CASES, Helm, binary, merged
from tests.chart.manifest import container, one
from tests.chart.openid import Handler, Provider, Server

PATH = str(CASES["oidc"]["ingress"]["path"])
SEEN: list[dict[str, str]] = []
"""Headers of the requests that reached the IDE."""


class Ide(Handler):
    """The IDE's place."""

    def do_GET(self) -> None:  # noqa: N802
        SEEN.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        if "upgrade" in SEEN[-1]:
            self.answer("", 101, Upgrade="websocket", Connection="Upgrade")
        else:
            self.answer("the IDE")


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirections to the test."""

    def redirect_request(self, *_args: Any) -> None:
        """Follow none."""


@dataclass
class Browser:
    """A browser behind an Ingress that ends TLS. url: of the proxy. cookies: by name."""

    url: str
    cookies: dict[str, str] = field(default_factory=dict)

    def open(self, path: str, **headers: str) -> int:
        """The status of the page that redirections lead to."""
        url = urllib.parse.urljoin(self.url, path)
        for _ in range(8):
            sent = {"X-Forwarded-Proto": "https", "Accept": "text/html", **headers}
            cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            request = urllib.request.Request(url, headers={**sent, "Cookie": cookies})
            try:
                answer = urllib.request.build_opener(NoRedirects).open(request, timeout=patience(10))
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                for cookie in answer.headers.get_all("Set-Cookie") or []:
                    pair, *attributes = cookie.split("; ")
                    assert {"Secure", "HttpOnly", "SameSite=Lax", f"Path={PATH}"} <= set(attributes)
                    name, _, value = pair.partition("=")
                    self.cookies[name] = value
                    if not value:
                        del self.cookies[name]
                if answer.status // 100 != 3:
                    return int(answer.status)
                url = urllib.parse.urljoin(url, answer.headers["Location"])
        raise AssertionError(f"redirected without an end, last to {url}")


@dataclass
class Login:
    """The proxy, its provider, and a browser."""

    provider: Provider
    browser: Browser
    log: Path


def arguments(helm: Helm, folder: Path, addresses: dict[str, str]) -> list[str]:
    """The chart's arguments, with the addresses and files of this machine in place of the cluster's."""
    objects = helm.objects(merged(CASES["oidc"], {"ingress": {"path": PATH}}))
    (folder / "emails").write_text(one(objects, "ConfigMap", "-login")["data"]["emails"])
    (folder / "client-secret").write_text("of-the-provider")
    (folder / "cookie-secret").write_text("a" * 32)
    moved = {f"/etc/future-kubernetes/{name}": str(folder) for name in ("oidc", "login")} | addresses
    found = []
    for argument in container(objects, "login")["args"]:
        for there, here in moved.items():
            argument = argument.replace(there, here)
        found.append(argument)
    return found


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """The running proxy."""
    folder = tmp_path_factory.mktemp("login")
    provider = Provider(folder)
    own = f"http://127.0.0.1:{free_port()}"
    log = folder / "log"
    with provider.server, Server(Ide) as ide, log.open("w") as file:
        moved = {
            str(CASES["oidc"]["oidc"]["issuer"]): provider.server.url,
            "http://lab-future-kubernetes-scheduler:8787": ide.url,
            "0.0.0.0:4180": urllib.parse.urlsplit(own).netloc,
            "https://r.example.org": own,
        }
        command = [binary("oauth2-proxy"), *arguments(Helm(folder), folder, moved)]
        with subprocess.Popen(command, stdout=file, stderr=file) as process:
            try:
                deadline = time.monotonic() + patience(20)
                while not answers(f"{own}{PATH}oauth2/ready"):
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.05)
                yield Login(provider, Browser(own), log)
            finally:
                process.terminate()


@pytest.fixture
def browser(login: Login) -> Iterator[Browser]:
    """A browser that has never been here; the provider is Ada's again afterwards."""
    SEEN.clear()
    before = dict(login.provider.claims)
    yield Browser(login.browser.url)
    login.provider.claims = before


def answers(url: str) -> bool:
    """True if a probe of the kubelet would succeed."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_user_of_the_list_comes_to_the_asked_page(login: Login, browser: Browser) -> None:
    assert browser.open(f"{PATH}lab?file=a.R") == 200
    assert [request["path"] for request in SEEN] == [f"{PATH}lab?file=a.R"], "nothing reached the IDE before the login"
    assert login.provider.credentials[-1] == "r:of-the-provider"
    assert login.provider.redirects[-1] == f"{browser.url}{PATH}oauth2/callback"


def test_ide_sees_its_own_host_and_no_other_login(browser: Browser) -> None:
    browser.open(PATH)
    (request,) = SEEN
    assert request["host"] == urllib.parse.urlsplit(browser.url).netloc, "Jupyter compares it with the page's origin"
    assert "authorization" not in request
    assert request["x-forwarded-email"] == "ada@example.org"
    assert request["x-forwarded-proto"] == "https"
    assert len(request["cookie"]) < 4096, "browsers and Ingress controllers take no larger cookie"


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"email": "eve@example.org"}, 403),
        ({"email": "eve@statistics.example.org"}, 200),
        ({"email": "eve@statistics.example.org.evil.org"}, 403),
        ({"email": "ADA@example.org"}, 200),
        ({"email_verified": False}, 500),
    ],
)
def test_only_verified_addresses_of_the_list_reach_the_ide(
    login: Login, browser: Browser, claims: dict[str, Any], status: int
) -> None:
    login.provider.claims |= claims
    assert browser.open(PATH) == status
    assert bool(SEEN) == (status == 200)


def test_forged_headers_and_cookies_open_nothing(login: Login, browser: Browser) -> None:
    login.provider.claims["email"] = "eve@example.org"
    browser.cookies["_oauth2_proxy"] = "Zm9yZ2Vk|1900000000|Zm9yZ2Vk"
    forged = {
        "X-Forwarded-Email": "ada@example.org",
        "X-Forwarded-User": "ada",
        "X-Forwarded-Uri": f"{PATH}oauth2/ping",
    }
    assert browser.open(PATH, **forged, Authorization="Basic YWRhOmFkYQ==") == 403
    assert SEEN == []


def test_session_outlives_the_token_of_the_provider(login: Login, browser: Browser) -> None:
    browser.open(PATH)
    asked = len(login.provider.redirects)
    time.sleep(1.2)  # the provider's token is for a second
    assert browser.open(PATH) == 200
    assert len(login.provider.redirects) == asked, "each expiry would cut the connections of a notebook"


def test_websocket_goes_through_for_a_user_and_for_nobody_else(browser: Browser) -> None:
    browser.open(PATH)
    SEEN.clear()
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", **key, "X-Forwarded-Proto": "https"}
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    for cookie, status in ((cookies, 101), ("", 302)):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(browser.url).netloc, timeout=patience(10))
        connection.request("GET", f"{PATH}api/kernels/1/channels", headers={**upgrade, "Cookie": cookie})
        assert connection.getresponse().status == status
        connection.close()
    assert [request["path"] for request in SEEN] == [f"{PATH}api/kernels/1/channels"]


def test_log_names_who_logged_in_and_no_secret(login: Login, browser: Browser) -> None:
    browser.open(PATH)
    text = login.log.read_text()
    assert "ada@example.org" in text
    assert "AuthSuccess" in text
    for secret in ("of-the-provider", "a" * 32, browser.cookies["_oauth2_proxy"]):
        assert secret not in text
