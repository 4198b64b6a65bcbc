"""The front door: logins, and the way of pages, calls and WebSockets to RStudio."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import re
import signal
import socket
import threading
import time
import urllib.parse
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, wait_for
from .door import INGRESS, LACKS_SOCKET, PASSWORD, UPGRADE, Door, OpenDoor, Stranger, doors, logged_in

__all__ = ["doors", "logged_in"]


def test_versions_of_the_tests_are_those_of_the_image() -> None:
    for file, names in {
        "requirements-server.txt": ("jupyter-server", "jupyter-server-proxy", "tornado"),
        "requirements-jupyterlab.txt": (
            "ipykernel",
            "jupyter-resource-usage",
            "jupyter-server",
            "jupyter-server-proxy",
            "tornado",
        ),
        "requirements-rstudio.txt": ("jupyter-rsession-proxy",),
    }.items():
        text = (ROOT / "image" / file).read_text()
        for name in names:
            assert f"{name}=={version(name)} " in text, f"{file} has another {name} than {version(name)}"


def test_variables_of_the_front_door_are_not_the_sessions_choice() -> None:
    world = (ROOT / "image/future.kubernetes/R/world.R").read_text()
    pattern = "".join(re.findall(r'^  "(.*)",?$', world.split("own_variables <- paste0(")[1].split("\n)")[0], re.M))
    config = (ROOT / "image/etc/jupyter_server_config.py").read_text()
    names = re.findall(r'os\.environ(?:\[|\.setdefault\()"(\w+)"', config)
    assert len(names) == 2
    assert all(re.search(pattern, name) for name in names)


@pytest.mark.parametrize("path", ["/", "/rstudio/", "/rstudio/as-seen", "/rstudio/p/80/", "/proxy/8785/", "/lab"])
def test_nothing_is_served_without_a_login(logged_in: Door, path: str) -> None:
    stranger = Stranger(logged_in)
    status, headers, text = stranger.ask(path)
    assert status == 302
    assert re.search(r"/login\?next=|/rstudio/\??$", headers["Location"])
    assert "stand-in" not in text
    assert stranger.ask(path, {"a": "b"})[0] in (302, 403, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/rstudio/p/80/",
        "/proxy/8785/",
        "/rstudio/",
        "/cluster/events",
        "/api/kernels/1-1-1-1-1/channels",
        "/terminals/websocket/1",
    ],
)
def test_websocket_is_refused_without_a_login(logged_in: Door, path: str) -> None:
    assert Stranger(logged_in).ask(path, headers=UPGRADE)[0] == 403


def test_root_leads_to_rstudio_whose_page_and_calls_get_through(logged_in: Door) -> None:
    status, headers, _ = logged_in.ask("/")
    assert (status, urllib.parse.urlsplit(headers["Location"]).path) == (302, "/rstudio/")
    status, headers, text = logged_in.ask("/rstudio/")
    assert status == 200
    assert "RStudio (stand-in)" in text
    assert "Path=/rstudio" in "".join(headers.get_all("Set-Cookie") or ())
    call = {"X-RS-CSRF-Token": logged_in.cookies["rs-csrf-token"]}
    assert logged_in.ask("/rstudio/rpc/other", {}, call)[0] in (200, 400)
    assert logged_in.ask("/rstudio/events/get_events", {}, call)[::2] == (200, '{"result": "none"}')
    assert logged_in.ask("/rstudio/events/get_events", {})[0] == 400


def test_rserver_gets_the_options_of_the_proven_way(logged_in: Door) -> None:
    options = json.loads(logged_in.ask("/rstudio/as-seen")[2])["options"]
    assert options["auth-none"] == "1"
    assert options["server-user"] == pwd.getpwuid(os.getuid()).pw_name
    assert options["www-root-path"] == "/rstudio/"
    assert options["rsession-path"].endswith("/future-rsession")
    assert "www-port" not in options
    listening = Path(options["www-socket"])
    assert listening.is_socket()
    assert listening.parent.stat().st_mode & 0o077 == 0
    assert Path(options["server-data-dir"]).parent.stat().st_mode & 0o077 == 0
    assert "rserver: logs go to stderr" in logged_in.log()


def test_rserver_sees_the_browsers_address_behind_an_ingress(logged_in: Door) -> None:
    browser = Stranger(logged_in, INGRESS)
    browser.log_in()
    seen = json.loads(browser.ask("/rstudio/as-seen")[2])
    assert seen["address"] == "https://r.example.org/rstudio/as-seen"
    assert "; Secure" in "".join(browser.ask("/rstudio/")[1].get_all("Set-Cookie") or ())
    location = browser.ask("/rstudio/auth-sign-in")[1]["Location"]
    assert location == "https://r.example.org/rstudio/"


def test_redirection_of_rs_help_stays_below_the_path(logged_in: Door) -> None:
    location = logged_in.ask("/rstudio/help/library/stats/html/lm.html")[1]["Location"]
    assert urllib.parse.urlsplit(location).path == "/rstudio/help/page"
    assert logged_in.ask("/rstudio/help/page")[2] == "Fitting Linear Models"


def test_download_of_tens_of_megabytes_gets_through(logged_in: Door) -> None:
    assert len(logged_in.ask("/rstudio/export/40")[2]) == 40_000_000


def websocket(door: Door, path: str, headers: dict[str, str] | None = None) -> tuple[bytes, bytes]:
    """Answer to an upgrade, and to the text `ping` on it."""
    with socket.create_connection(("127.0.0.1", door.port), 10) as client:
        cookies = "; ".join(f"{name}={value}" for name, value in door.cookies.items())
        lines = {"Host": f"127.0.0.1:{door.port}", "Cookie": cookies, **UPGRADE, **(headers or {})}
        client.sendall(
            f"GET {path} HTTP/1.1\r\n".encode()
            + "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
            + b"\r\n"
        )
        stream = client.makefile("rb")
        head = b"".join(iter(stream.readline, b"\r\n"))
        if b" 101 " not in head:
            return head, b""
        client.sendall(bytes([0x81, 0x84, 0, 0, 0, 0]) + b"ping")
        length = stream.read(2)[1]
        return head, stream.read(length)


def application(door: Door) -> str:
    found = re.search(r"p/\d+/", door.ask(f"{door.base}rstudio/")[2])
    assert found
    return f"{door.base}rstudio/{found[0]}"


def test_application_of_a_session_and_its_websocket_get_through(logged_in: Door) -> None:
    path = application(logged_in)
    assert "an application" in logged_in.ask(f"{path}app/")[2]
    assert websocket(logged_in, f"{path}websocket/")[1] == b"heard ping"
    port = re.sub(r"\D", "", path)
    assert websocket(logged_in, f"/proxy/{port}/websocket/")[1] == b"heard ping"


def test_websocket_from_another_sites_page_is_refused(logged_in: Door) -> None:
    path = f"{application(logged_in)}websocket/"
    assert b" 403 " in websocket(logged_in, path, {"Origin": "https://evil.example"})[0]
    assert websocket(logged_in, path, {"Origin": f"http://127.0.0.1:{logged_in.port}"})[1] == b"heard ping"


def test_everything_works_below_a_path(doors: OpenDoor) -> None:
    door = doors(base="/team/r/")
    assert door.log_in() == 302
    assert door.ask("/team/r/")[1]["Location"].endswith("/team/r/rstudio/?")
    browser = Stranger(door, INGRESS)
    browser.log_in()
    seen = json.loads(browser.ask("/team/r/rstudio/as-seen")[2])
    assert seen["address"] == "https://r.example.org/team/r/rstudio/as-seen"
    location = door.ask("/team/r/rstudio/help/library/stats/html/lm.html")[1]["Location"]
    assert urllib.parse.urlsplit(location).path == "/team/r/rstudio/help/page"
    assert websocket(door, f"{application(door)}websocket/")[1] == b"heard ping"
    assert door.ask("/rstudio/")[0] == 404


def test_killed_rserver_is_started_again(doors: OpenDoor) -> None:
    door = doors()
    door.log_in()
    door.ask("/rstudio/")
    (before,) = door.rservers()
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: door.rservers() - {before})
    wait_for(lambda: door.ask("/rstudio/")[0] == 200)
    door.process.terminate()
    door.process.wait(10)
    wait_for(lambda: not door.rservers())


def test_changed_password_holds_at_once_and_a_cookie_stays(doors: OpenDoor) -> None:
    door = doors()
    assert door.log_in() == 302
    (door.folder / "password").write_text("another one\n")
    stranger = Stranger(door)
    assert stranger.log_in() == 401
    assert stranger.log_in("another one") == 302
    assert door.ask("/rstudio/")[0] == 200
    (door.folder / "password").write_text("")
    assert Stranger(door).log_in("") == 401


def test_wrong_guesses_are_slowed_down_and_too_many_refused(doors: OpenDoor) -> None:
    door = doors("jupyterlab", rserver=False)
    begun = time.monotonic()
    assert [door.log_in(guess) for guess in ("a", "b", "c")] == [401] * 3
    assert time.monotonic() - begun >= 1.5  # 0, 0.5 and 1 s
    assert door.log_in() == 302  # after 2 s more
    assert time.monotonic() - begun >= 3.5
    assert Stranger(door).log_in("d") == 401
    statuses: list[int] = []
    guessers = [Stranger(door) for _ in range(14)]
    for guesser in guessers:
        guesser.ask("/login")

    def guess(guesser: Door) -> None:
        with contextlib.suppress(http.client.RemoteDisconnected):  # at the end of the test
            statuses.append(guesser.log_in("e"))

    threads = [threading.Thread(target=guess, args=(guesser,)) for guesser in guessers]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(statuses) >= 4, 5)
    assert statuses[:4] == [429] * 4
    assert door.ask("/login")[0] == 302  # a person who is logged in does not wait
    door.process.kill()
    for thread in threads:
        thread.join()


def test_login_cookie_is_for_https_only_behind_an_ingress(doors: OpenDoor) -> None:
    door = doors("jupyterlab", rserver=False)
    for proto, secure in (("https", True), ("http", False)):
        stranger = Stranger(door)
        stranger.ask("/login")
        form = {"password": PASSWORD, "_xsrf": stranger.cookies["_xsrf"]}
        headers = stranger.ask("/login", form, {"X-Forwarded-Proto": proto})[1]
        cookie = next(c for c in headers.get_all("Set-Cookie") or () if c.startswith("username-"))
        assert ("secure" in cookie.lower()) is secure
        assert "httponly" in cookie.lower()


@pytest.mark.parametrize(
    ("ide", "path", "environ", "rserver", "said", "tile"),
    [
        (
            "rstudio",
            "/rstudio/",
            {},
            False,
            ["no RStudio Server", "baseImage rocker/rstudio:4.6.1"],
            "RStudio (not in this image)",
        ),
        (
            "both",
            "/rstudio/p/1/x",
            LACKS_SOCKET,
            True,
            ["2023.03.0 is too old", "no option www-socket", "2024.12"],
            "RStudio (too old: 2023.03.0)",
        ),
        ("rstudio", "/lab", {}, True, ["only RStudio", "set ide both"], "RStudio"),
        ("jupyterlab", "/rstudio", {}, True, ["only JupyterLab", "set ide both"], "RStudio (not in this stack)"),
        # As in the tests' environment.
        ("both", "/lab/tree/x", {}, True, ["no JupyterLab", "built for another ide"], "RStudio"),
    ],
)
def test_tile_and_page_give_the_reason_where_an_ide_cannot_be_opened(
    doors: OpenDoor, ide: str, path: str, environ: dict[str, str], rserver: bool, said: list[str], tile: str
) -> None:
    door = doors(ide, rserver=rserver, **environ)
    assert Stranger(door).ask(path)[0] == 302
    door.log_in()
    status, _, text = door.ask(path)
    assert status == 503
    for words in said:
        assert words in text
    # A link to the other one, if it can be opened.
    assert ('<a href="/rstudio/">RStudio</a>' in text) is (path.startswith("/lab") and rserver)
    assert [entry["launcher_entry"]["title"] for entry in launched(door)] == [tile]
    assert not door.rservers()


def launched(door: Door) -> list[dict[str, Any]]:
    """Return the programs that JupyterLab's launcher makes tiles of."""
    found: list[dict[str, Any]] = json.loads(door.ask("/server-proxy/servers-info")[2])["server_processes"]
    return found


def test_rserver_that_does_not_start_is_named_with_its_log(doors: OpenDoor) -> None:
    door = doors(RSERVER_TIMEOUT="1")
    (door.folder / "rserver.conf").write_text("unknown-option=1\nserver-user=nobody\n")
    broken = door.folder / "bin/rserver"
    broken.write_text(broken.read_text().replace("exec", '[ "$1" = --help ] || { sleep 0.3; exit 1; }; exec'))
    door.log_in()
    status, _, text = door.ask("/rstudio/")
    assert status == 500
    assert "could not start rstudio in time" in text
    assert "kubectl --namespace team logs deployment/r-scheduler" in text


def test_rserver_that_ends_at_once_is_restarted_with_growing_pauses(doors: OpenDoor) -> None:
    door = doors(RSERVER_TIMEOUT="4")
    starts = door.folder / "starts"
    broken = door.folder / "bin/rserver"
    broken.write_text(broken.read_text().replace("exec", f'[ "$1" = --help ] || {{ echo >>{starts}; exit 7; }}; exec'))
    door.log_in()
    status, _, text = door.ask("/rstudio/")
    assert status == 500
    assert "could not start rstudio in time" in text
    pauses = re.findall(r"rstudio ended with status 7; starting it again in (\S+) s", door.log())
    assert len(pauses) >= 2, door.log()
    assert pauses == ["0.5", "1.0", "2.0", "4.0"][: len(pauses)]
    tries = len(starts.read_text())
    assert tries <= 4
    time.sleep(1)
    assert len(starts.read_text()) == tries, "nobody asks for it any more"
