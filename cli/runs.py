"""Runs a project folder in the cluster without a browser, from copying it in to copying its results out.

The folder is copied into the scheduler's home, and Rscript runs there as the IDE's user with the image's packages. It
runs independently of this command: a lost network, a sleeping laptop and Ctrl-C end only the connection.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli import files, pod_agent, pod_files
from cli.client import Client, Reconnect
from cli.errors import INTERRUPTED, RUN_LOST, ConnectionLostError
from cli.stack import Stack, destroy
from common.errors import UserError
from common.patience import patience
from common.progress import Step

SHOWN_RESULTS = 20
RELEASE_SECONDS = 120.0
STILL_BUSY_SECONDS = 15.0
"""Seconds for which the workers of a run may still be in use after its end."""

PREFIX = "future-kubernetes"


class Then(StrEnum):
    """Action after a run that succeeded."""

    keep = "keep"
    release = "release"
    destroy = "destroy"


def say(text: str) -> None:
    """Prints a line of this command's own; standard output has only the script's."""
    print(f"{PREFIX}: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Runs:
    """The runs on an opened stack."""

    stack: Stack
    client: Client

    @classmethod
    def on(cls, opened: Stack) -> Runs:
        """The runs on this stack."""
        return cls(opened, Client(opened, say))

    def start(self, folder: Path, script: str, arguments: Sequence[str], results: Path | None, then: Then) -> int:
        """Runs `script` in a copy of `folder` and waits for its end; returns the exit status."""
        results = results or folder
        run, command = self._prepare(folder, script, arguments, results)
        return self._see_through(run, results, then, command)

    def attach(self, run: str, results: Path | None, then: Then) -> int:
        """Follows a run that was started earlier, and copies its results out; returns the exit status."""
        states = {entry["run"]: entry["state"] for entry in self._request("runs")["runs"]}
        if run not in states:
            raise UserError(f"there is no run {run!r}.\nFix: choose one of {self._command('runs')}")
        if states[run] in ("ready", "incomplete"):
            raise UserError(f"run {run} was never started.\nFix: {self._command('remove', run)}")
        return self._see_through(run, results or Path(run), then)

    def stop(self, run: str) -> None:
        """Stops a run; its folder and its results so far stay."""
        reply = self._request("stop", run=run)
        if reply["was"] == "running":
            say(f"run {run} is stopped (exit status {reply.get('status', 'unknown')}); its folder is kept")
        else:
            say(f"run {run} does not run: {_state_in_words(reply)}")

    def remove(self, run: str) -> None:
        """Deletes the folder of a run in the cluster."""
        self._request("remove", run=run)
        say(f"run {run} is deleted")

    def list(self) -> None:
        """Prints all runs as a table on standard output."""
        found = self._request("runs")["runs"]
        if not found:
            say("there are no runs")
            return
        table = Table("RUN", "STATE", "TOOK", "FOLDER", "FROM", "COMMAND", box=None, pad_edge=False)
        for entry in found:
            table.add_row(*_row(entry))
        # In a pipe no column may be cut off for the width of a terminal.
        width = None if sys.stdout.isatty() else 10_000
        Console(width=width, markup=False, emoji=False, highlight=False).print(table)

    def _prepare(self, folder: Path, script: str, arguments: Sequence[str], results: Path) -> tuple[str, Sequence[str]]:
        """Copies the project in; returns the name of the run and its command."""
        project = files.project(folder, script)
        _check_writable(results)
        self._check_space(project)
        for path in project.others:
            say(f"not copied: {path} is neither a file nor a folder, or a link to nowhere")
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        command = ["Rscript", os.path.normpath(script), *arguments]
        about = {"command": command, "folder": project.folder.resolve().name, "from": socket.gethostname()}
        try:
            self._copy_in(run, project, {**about, "begun": time.time()})
        except BaseException:
            with suppress(UserError, ConnectionLostError, pod_files.AgentError):
                self.client.request("remove", run=run)
            raise
        say(f"run {run} on stack {self.stack.name}: {shlex.join(command)}")
        return run, command

    def _check_space(self, project: files.Project) -> None:
        space = self._request("space")
        if project.size > space["free"]:
            raise UserError(
                f"{project.folder} takes {files.in_bytes(project.size)}, and the scheduler's home has "
                f"{files.in_bytes(space['free'])} free of {files.in_bytes(space['total'])}.\n"
                f"Fix: leave files out by {project.folder / files.IGNORE_FILE}, or delete old runs "
                f"({self._command('runs')}, then {self._command('remove', 'RUN')}), or: "
                "pulumi config set homeGiB NUMBER && pulumi up"
            )

    def _copy_in(self, run: str, project: files.Project, about: dict[str, Any]) -> None:
        progress = _Copying(f"copying {files.counted(project.files)} in, {files.in_bytes(project.size)}", project.size)
        checksums: dict[str, str] = {}

        def feed(pod: Any) -> None:
            checksums.update(pod_files.pack(project.folder, project.files, project.folders, pod, progress.more))

        try:
            reply = self.client.request("receive", feed, run=run, about=about, files=len(project.files))
        except ConnectionLostError as error:
            raise UserError(
                f"the connection was lost while copying: {error}\nFix: run the same command again"
            ) from None
        except OSError as error:
            raise UserError(
                f"{error.filename} changed while it was copied: {error.strerror}\nFix: run the same command again"
            ) from None
        finally:
            progress.end()
        if reply["sums"] != checksums:
            raise UserError("the files did not arrive as they were sent.\nFix: run the same command again")

    def _see_through(self, run: str, results: Path, then: Then, command: Sequence[str] | None = None) -> int:
        """Starts `command` if given, follows the run to its end, copies its results out, and does what follows."""
        again = ("attach", run, "--results", str(results.absolute()), "--then", then.value)
        try:
            try:
                if command:
                    self.client.request_repeatedly("launch", run=run, command=list(command))
                ended = self.client.follow(run, _show)
            except pod_agent.NoSuchRunError:
                say("the run's folder is gone: the scheduler pod ended, and its home was not on a volume (homeGiB)")
                return RUN_LOST
            except BrokenPipeError:
                raise KeyboardInterrupt from None  # the reader of standard output has ended
            status = self._report_end(run, ended)
            self._copy_out(run, results)
        except KeyboardInterrupt:
            say(f"detached; the run continues. To follow it again:\n  {self._command(*again)}")
            say(f"to stop it:\n  {self._command('stop', run)}")
            return INTERRUPTED
        except UserError as error:
            raise UserError(f"{error}\nEverything is kept. To continue: {self._command(*again)}") from None
        if status != 0:
            if then is not Then.keep:
                say(f"--then {then.value} is only for a success: stack, workers and the run's folder are kept")
        elif then is Then.release:
            self._release_workers()
        elif then is Then.destroy:
            self._destroy(run)
        return status

    def _report_end(self, run: str, ended: dict[str, Any]) -> int:
        """Prints how the run ended; returns the exit status."""
        if ended["state"] == "lost":
            state = self.client.pod_state()
            say(f"the run is lost: the scheduler pod ended during the run{f' ({state})' if state else ''}; see the log")
            return RUN_LOST
        status = int(ended["status"])
        if ended["state"] == "stopped":
            say(f"run {run} was stopped (exit status {status})")
        elif status == 137:
            say("Rscript was killed (exit status 137), most likely because the scheduler pod ran out of memory")
        else:
            say(f"Rscript ended with exit status {status}")
        return status

    def _copy_out(self, run: str, results: Path) -> None:
        reconnect = Reconnect(self.client, say)
        while True:
            changed = self.client.request_repeatedly("changed", run=run)
            if not changed["files"]:
                say("no file is new or changed")
                return
            size = sum(size for _, size, _ in changed["files"])
            names = [path for path, _, _ in changed["files"]]
            progress = _Copying(f"copying {files.counted(names)} out, {files.in_bytes(size)}", size)

            def receive(take: Callable[[Any], dict[str, str]], names: Sequence[str] = names) -> dict[str, str]:
                return self.client.receive(take, run=run, files=names)

            try:
                placed = files.place(run, results, changed, receive, progress.more)
                break
            except ConnectionLostError as error:
                reconnect.wait(error)
            except OSError as error:
                raise UserError(f"the results cannot be written to {results}: {error}") from None
            finally:
                progress.end()
        for path in changed["others"]:
            say(f"not copied: {path} is neither a file nor a folder, or a link to nowhere")
        _report_results(placed, results, run)

    def _release_workers(self) -> None:
        """Scales the workers to 0, and waits until Kubernetes has that number."""
        started = time.monotonic()
        busy_until = started + patience(STILL_BUSY_SECONDS)
        progress = _Copying("releasing the workers")
        try:
            while (stay := int(self._request("release")["stay"])) and time.monotonic() < busy_until:
                progress.note("some are still in use")
                time.sleep(2)
            name = f"deployment/{self.stack.release}-worker"
            while (left := self.client.kubectl("get", name, "--output=jsonpath={.spec.replicas}")) != str(stay):
                if time.monotonic() > started + patience(RELEASE_SECONDS):
                    raise UserError(
                        f"the workers were released, but Kubernetes still has {left or 'an unknown number'} after "
                        f"{patience(RELEASE_SECONDS):.0f} s. The results are here.\n"
                        "Fix: in R, future.kubernetes::scale_workers(0)"
                    )
                progress.note(f"{left or 'an unknown number'} left")
                time.sleep(1)
        finally:
            progress.end()
        if stay:
            say(f"{stay} workers stay, because other sessions use them")

    def _destroy(self, run: str) -> None:
        running = [entry["run"] for entry in self._request("runs")["runs"] if entry["state"] == "running"]
        if running:
            raise UserError(
                f"the stack is not destroyed, because {', '.join(running)} still runs on it. The results of {run} are "
                f"here.\nFix: once those have ended: {shlex.join(self.stack.destroy)}"
            )
        say(f"destroying stack {self.stack.name}")
        destroy(self.stack)
        say(f"stack {self.stack.name} is destroyed; the results are here")

    def _request(self, do: str, **details: Any) -> dict[str, Any]:
        """One attempt at a request, since a person waits; an error has the state of the scheduler pod."""
        try:
            return self.client.request(do, **details)
        except ConnectionLostError as error:
            state = self.client.pod_state()
            raise UserError(
                f"the scheduler of stack {self.stack.name!r} does not answer: {error}{f' ({state})' if state else ''}\n"
                f"Fix: wait if it is starting, else: {self.stack.up}"
            ) from None

    def _command(self, name: str, *arguments: str) -> str:
        """The command line of another command on this stack, to be pasted."""
        return shlex.join([_program(), name, *arguments, "--stack", self.stack.name])


def _program() -> str:
    """`future-kubernetes` as the user can call it: by name where PATH has it, else by its path."""
    program = Path(sys.executable).with_name("future-kubernetes")
    if str(program.parent) in os.get_exec_path():
        return program.name
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"results cannot be written to {str(folder)!r}: {error.strerror}.\nFix: --results with another folder"
        ) from None


def _report_results(placed: Sequence[files.Placed], results: Path, run: str) -> None:
    for entry in placed[:SHOWN_RESULTS]:
        why = ": the file here was changed during the run and stays" if entry.how == "kept apart" else ""
        say(f"  {results / entry.path} ({entry.how}{why})")
    rest = placed[SHOWN_RESULTS:]
    if rest:
        apart = sum(entry.how == "kept apart" for entry in rest)
        say(f"  and {len(rest)} more" + (f", {apart} of them kept apart as NAME.{run}" if apart else ""))


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _row(entry: dict[str, Any]) -> Sequence[str]:
    about = entry["about"]
    took = ""
    if entry["began"] and "at" in entry:
        took = f"{entry['at'] - entry['began']:.0f} s"
    elif entry["began"] and entry["state"] == "running":
        took = f"{entry['now'] - entry['began']:.0f} s so far"
    command = shlex.join(about.get("command", []))
    return entry["run"], _state_in_words(entry), took, about.get("folder", ""), about.get("from", ""), command


def _state_in_words(entry: dict[str, Any]) -> str:
    return f"{entry['state']} with {entry['status']}" if "status" in entry else str(entry["state"])


class _Copying(Step):
    """Progress on standard error; `more` adds to what is done."""

    def __init__(self, title: str, total: int = 0) -> None:
        super().__init__(f"{PREFIX}: {title}", err=True, indent="")
        self._total, self._done = total, 0

    def more(self, amount: int) -> None:
        """Adds to what is done."""
        self._done += amount
        self.update(self._done, self._total)

    def end(self) -> None:
        """Prints the last line, "failed" where an exception passes through."""
        self.finish("failed" if sys.exc_info()[0] else "done")
