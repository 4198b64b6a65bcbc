"""Helm: the state of a release, recovery from an interrupted run, and an upgrade that watches its pods."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common import processes
from common.errors import UserError
from common.kubectl import Kubectl, last_line
from common.patience import patience
from common.private_files import private_file
from common.progress import Step
from components.release.pod_watch import POLL_SECONDS, PodWatch

STOP_SECONDS = 20.0
COMMAND_SECONDS = 300.0
UNREACHABLE_SECONDS = 20.0


@dataclass(frozen=True)
class HelmRelease:
    """One Helm release. kubectl: with the release's namespace. program: path of helm."""

    program: str
    kubectl: Kubectl
    name: str

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of helm for this release's cluster and namespace."""
        return [
            self.program, *arguments,
            "--kubeconfig", str(self.kubectl.kubeconfig), "--namespace", self.kubectl.namespace,
        ]  # fmt: skip

    def status(self) -> str | None:
        """Return Helm's status of the newest revision, such as "deployed"; None without a release."""
        answer = self._read("status", self.name, "--output", "json")
        if answer.returncode == 0:
            return str(json.loads(answer.stdout)["info"]["status"])
        if "not found" in answer.stderr:
            return None
        raise UserError(f"the state of release {self.name} cannot be read: {last_line(answer.stderr)}")

    def recover(self, progress: Step) -> None:
        """Rolls a release back to its last good revision after an interrupted or failed run.

        Removes the release where there is no such revision. Otherwise Helm would refuse every further update of a
        release that is "pending-...".
        """
        status = self.status()
        if status in (None, "deployed"):
            return
        answer = self._read("history", self.name, "--output", "json")
        revisions = json.loads(answer.stdout) if answer.returncode == 0 else []
        good = [entry["revision"] for entry in revisions if entry["status"] in ("deployed", "superseded")]
        if good and status != "uninstalling":
            progress.note(f"the last run left it {status}: rolling back to revision {max(good)}")
            # Without --wait: the pods of that revision may need the next update to become ready.
            done = self._run(
                "rollback", self.name, str(max(good)), "--cleanup-on-fail", f"--timeout={patience(180):.0f}s"
            )
            if done.returncode != 0:
                raise UserError(f"release {self.name} cannot be rolled back: {last_line(done.stderr)}")
        else:
            progress.note(f"the last run left it {status}: removing it")
            self.uninstall()

    def uninstall(self) -> None:
        """Removes the release with all its objects, volumes included. Succeeds where there is none."""
        done = self._run("uninstall", self.name, "--wait", f"--timeout={patience(180):.0f}s", "--ignore-not-found")
        if done.returncode != 0:
            raise UserError(f"release {self.name} cannot be removed: {last_line(done.stderr)}")

    def upgrade(self, inputs: Mapping[str, Any], progress: Step) -> None:
        """Installs or upgrades the release as a Pulumi Release resource with these inputs describes it, and waits.

        A failed update is rolled back, a failed first install removed. Raises UserError with the reason from the pods.
        """
        self.recover(progress)
        with private_file(json.dumps(inputs.get("values", {}))) as values:
            command = self.command(
                "upgrade", "--install", self.name, inputs["chart"], "--values", str(values), "--wait",
                f"--timeout={inputs['timeout']:.0f}s",
                "--history-max", str(inputs["maxHistory"]), "--description", inputs.get("description", ""),
            )  # fmt: skip
            try:
                self._watched(command, progress)
            except BaseException as failure:
                progress.note("rolling back")
                try:
                    self.recover(progress)
                except UserError as error:
                    # The first failure has the reason. The next run recovers the release again.
                    if isinstance(failure, UserError):
                        raise UserError(f"{failure}\n    then:    {error}") from failure
                raise

    def _watched(self, command: list[str], progress: Step) -> None:
        watch = PodWatch(self.kubectl, self.name)
        problem, checked = None, 0.0
        with tempfile.TemporaryFile("w+") as output:
            # In a process session of its own, so that Ctrl-C in the terminal reaches this program first.
            process = subprocess.Popen(command, stdout=output, stderr=output, text=True, start_new_session=True)
            try:
                while process.poll() is None and not problem:
                    if time.monotonic() - checked >= POLL_SECONDS:
                        problem = watch.check()
                        checked = time.monotonic()
                        progress.note(watch.progress)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.1)
            finally:
                processes.end(process, patience(STOP_SECONDS))
            output.seek(0)
            text = output.read()
        if problem:
            raise UserError(watch.report(problem))
        if process.returncode != 0:
            pods = f" ({watch.progress})" if "timed out" in text or "deadline" in text else ""
            raise UserError(f"helm: {last_line(text)}{pods}")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs helm to its end; the caller checks `returncode`."""
        command = self.command(*arguments)
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=patience(COMMAND_SECONDS), check=False
            )
        except subprocess.TimeoutExpired:
            text = f"helm {arguments[0]} did not end within {patience(COMMAND_SECONDS):.0f} s"
            return subprocess.CompletedProcess(command, 1, "", text)

    def _read(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a helm command that changes nothing. Repeats it while the API server does not answer.

        Helm itself allows 10 s for a TLS handshake, and no option changes that.
        """
        deadline = time.monotonic() + patience(UNREACHABLE_SECONDS)
        while True:
            answer = self._run(*arguments)
            unreachable = answer.returncode != 0 and "cluster unreachable" in answer.stderr
            if not unreachable or time.monotonic() > deadline:
                return answer
            time.sleep(1)
