"""`future-kubernetes connect` on a real cluster: the page stays reachable when the pod is replaced."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from selenium.webdriver.common.by import By

from bench.browser import BrowserWait, chromium, log_in
from common.paths import REPO
from common.patience import patience
from tests.e2e.browsing import connecting
from tests.e2e.conftest import Stack

ANOTHER_LOGIN = """
import dataclasses, sys
from pathlib import Path
from cli import connect, stack
with stack.opened("dev") as opened:
    kubectl = dataclasses.replace(opened.kubectl, kubeconfig=Path(sys.argv[1]))
    connect.connect(dataclasses.replace(opened, kubectl=kubectl), browser=False)
"""

pytestmark = pytest.mark.timeout(300)


def test_the_page_is_reached_again_after_the_pod_was_replaced(stack: Stack, tmp_path: Path) -> None:
    with connecting(stack, tmp_path, "--no-browser") as connect:

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{connect.port}/", timeout=5) as answer:
                    return "password" in answer.read().decode()
            except OSError:
                return False

        stack.wait("the page", 60, answers)
        before = stack.scheduler()["metadata"]
        stack.kubectl("delete", "pod", before["name"], "--wait=false")
        stack.wait("the loss to be said", 60, lambda: "The connection was lost" in connect.said())
        stack.scheduler(other_than=before["uid"])
        stack.wait("the connection to be back", 60, lambda: "Connected again." in connect.said())
        # kubectl may choose the pod that ends, and then the connection is lost once more.
        stack.wait("the page again", 60, answers)
        connect.end()
        assert not answers()
    assert stack.outputs()["password"] not in connect.said()


def test_another_port_is_taken_and_the_browser_opened_there(stack: Stack, tmp_path: Path) -> None:
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.new && mv {opened}.new {opened}\n')
    browser.chmod(0o755)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        connecting(stack, tmp_path, "--password", port=taken.getsockname()[1], BROWSER=str(browser)) as connect,
    ):
        stack.wait("the browser", 60, opened.exists)
        address = opened.read_text().strip()
        other = address.strip("/").rpartition(":")[2]
        assert f"Port {connect.port} of this machine is taken: using {other}." in connect.said()
        assert f"password {stack.outputs()['password']}" in connect.said()
        with chromium(tmp_path) as driver:
            log_in(driver, f"{address}cluster/", stack.outputs()["password"])
            BrowserWait(driver, 60).until(lambda b: b.find_element(By.ID, "link-text").text == "Live")
        connect.end()


def test_a_release_is_found_by_its_namespace_and_the_kubeconfig(stack: Stack, tmp_path: Path) -> None:
    options = ("--namespace", stack.namespace, "--no-browser", "--password")
    with connecting(stack, tmp_path, *options, KUBECONFIG=str(stack.node.kubeconfig)) as connect:
        stack.wait("the page", 60, lambda: "Ctrl-C ends the connection" in connect.said())
        assert f"http://localhost:{connect.port}/\n" in connect.said()
        assert f"password {stack.outputs()['password']}\n" in connect.said()
        with urllib.request.urlopen(f"http://127.0.0.1:{connect.port}/", timeout=patience(20)) as answer:
            assert "password" in answer.read().decode()
        connect.end()


def test_a_forward_that_hangs_is_made_again(stack: Stack, tmp_path: Path) -> None:
    """As after a sleep of the machine or in another network: kubectl lives on, and nothing comes through."""
    with connecting(stack, tmp_path, "--no-browser") as connect:
        stack.wait("the page", 60, lambda: f"http://localhost:{connect.port}/" in connect.said())
        pid = connect.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) == 1
        os.kill(int(children[0]), signal.SIGSTOP)
        stack.wait("the loss to be said", 60, lambda: "The connection was lost" in connect.said())
        stack.wait("the connection to be back", 60, lambda: "Connected again." in connect.said())
        connect.end()


@pytest.mark.parametrize("rights", [[], ["get services", "get,list pods"]])
def test_a_login_without_the_right_is_named_at_once(stack: Stack, tmp_path: Path, rights: list[str]) -> None:
    stack.kubectl("create", "serviceaccount", "guest")
    try:
        for number, right in enumerate(rights):
            verbs, _, kind = right.partition(" ")
            stack.kubectl("create", "role", f"guest-{number}", f"--verb={verbs}", f"--resource={kind}")
            bound = f"--serviceaccount={stack.namespace}:guest"
            stack.kubectl("create", "rolebinding", f"guest-{number}", f"--role=guest-{number}", bound)
        config = yaml.safe_load(stack.node.kubeconfig.read_text())
        token = stack.kubectl("create", "token", "guest").strip()
        config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        done = subprocess.run(
            [sys.executable, "-c", ANOTHER_LOGIN, tmp_path / "kubeconfig"],
            cwd=REPO, env=stack.environment(), capture_output=True, text=True, check=False, timeout=patience(60),
        )  # fmt: skip
        assert "UserError: this login to Kubernetes may not forward a port of stack 'dev'" in done.stderr, done.stderr
        assert ("pods/portforward" in done.stderr.split("Fix:")[0]) is bool(rights)
    finally:
        for number in range(len(rights)):
            stack.kubectl("delete", f"rolebinding/guest-{number}", f"role/guest-{number}")
        stack.kubectl("delete", "serviceaccount", "guest")
