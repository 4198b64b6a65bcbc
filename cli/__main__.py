"""Runs a project folder in the cluster without a browser, from copying it in to having its results.

    python -m batch FOLDER SCRIPT [--stack NAME] [--results DIR] [--then keep|release|destroy] [-- ARGUMENT...]
    python -m batch --list | --attach RUN | --stop RUN | --remove RUN  [--stack NAME]

The folder is copied into a new one of the run in the scheduler's home, and `Rscript SCRIPT ARGUMENT...` runs in it as
the IDE's user, with the image's packages. It runs apart from this command: a laptop that sleeps, loses its network or
is told Ctrl-C ends nothing, and `--attach` goes on. Files that are new or changed at the end are copied out, also after
a failure: into DIR, or, as if Rscript had run there, into FOLDER. What the script prints is on standard output, all
else on standard error.

`--then` comes after a success: `release` gives the workers back, `destroy` destroys the stack, home included, once the
results are here. Left out are .git, .Rproj.user, renv's library, and what FOLDER/.batchignore names.

Exit status: that of Rscript; 124 where the scheduler pod ended under the run; 125 where this command failed, its
message telling what stayed; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from batch import files, remote, stack
from batch.errors import DETACHED, RUN_LOST, TOOL_FAILED, BatchError, ConnectionLostError
from batch.pod import Patience, Scheduler
from common.progress import Step

SHOWN_RESULTS = 20
_RELEASE_SECONDS = 120.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse's own status 2 may as well be a script's.
        self.print_usage(sys.stderr)
        self.exit(TOOL_FAILED, f"error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as the module's text tells."""
    given = list(sys.argv[1:] if argv is None else argv)
    cut = given.index("--") if "--" in given else len(given)
    options = _parsed(given[:cut])
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)  # the kubeconfig's copy is taken away then too
    try:
        with stack.opened(options.stack) as opened:
            return Batch(options, given[cut + 1 :], Scheduler(opened, say)).carry_out()
    except (BatchError, remote.RemoteError) as error:
        say(f"error: {error}")
        return TOOL_FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return DETACHED


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m batch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the project folder")
    parser.add_argument("script", nargs="?", metavar="SCRIPT", help="the R script in it; its arguments come after --")
    parser.add_argument("--stack", default="dev", metavar="NAME", help="the stack; that of `make up` unless given")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where results go (FOLDER; for --attach ./RUN)")
    parser.add_argument(
        "--then", choices=("keep", "release", "destroy"), default="keep", help="what a success ends with"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--list", action="store_true", help="the runs and how they stand")
    other.add_argument("--attach", metavar="RUN", help="follow a run, or have the results of one that has ended")
    other.add_argument("--stop", metavar="RUN", help="end a run")
    other.add_argument("--remove", metavar="RUN", help="delete a run's folder in the cluster")
    options = parser.parse_args(given)
    alone = options.list or options.attach or options.stop or options.remove
    if alone and options.folder is not None:
        parser.error("--list, --attach, --stop and --remove take no FOLDER")
    if not alone and options.script is None:
        parser.error("a FOLDER and a SCRIPT in it are needed, as in: python -m batch analysis/ main.R")
    return options


def say(text: str) -> None:
    """A line of this command's own."""
    print(f"batch: {text}", file=sys.stderr, flush=True)


class Batch:
    """One call of the command on an opened stack."""

    def __init__(self, options: argparse.Namespace, arguments: Sequence[str], scheduler: Scheduler) -> None:
        self._options = options
        self._arguments = list(arguments)
        self._scheduler = scheduler

    def carry_out(self) -> int:
        """What the options say; returns the exit status."""
        options = self._options
        if options.list:
            return self._list()
        if options.stop:
            return self._stop(options.stop)
        if options.remove:
            self._first("remove", run=options.remove)
            say(f"run {options.remove} is deleted")
            return 0
        if options.attach:
            states = {entry["run"]: entry["state"] for entry in self._first("runs")["runs"]}
            if options.attach not in states:
                raise BatchError(f"there is no run {options.attach!r}.\nFix: one of {self._command('--list')}")
            if states[options.attach] in ("ready", "incomplete"):
                raise BatchError(
                    f"run {options.attach} was never started.\nFix: {self._command('--remove', options.attach)}"
                )
            return self._see_through(options.attach, options.results or Path(options.attach))
        results = options.results or options.folder
        run, command = self._prepare(results)
        return self._see_through(run, results, command)

    def _prepare(self, results: Path) -> tuple[str, list[str]]:
        """Copies the project in; returns the run's name and its command."""
        project = files.project(self._options.folder, self._options.script)
        try:
            results.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=results).close()
        except OSError as error:
            raise BatchError(
                f"results cannot be written to {str(results)!r}: {error.strerror}.\nFix: --results with another folder"
            ) from None
        space = self._first("space")
        if project.size > space["free"]:
            raise BatchError(
                f"{project.folder} takes {files.in_bytes(project.size)}, and the scheduler's home has "
                f"{files.in_bytes(space['free'])} free of {files.in_bytes(space['total'])}.\n"
                f"Fix: leave files out by {project.folder / files.IGNORE_FILE}, or delete old runs by --remove RUN "
                f"({self._command('--list')}), or: pulumi config set homeGiB NUMBER && pulumi up"
            )
        for path in project.others:
            say(f"left out: {path} is neither a file nor a folder, or a link to nowhere")
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        command = ["Rscript", os.path.normpath(self._options.script), *self._arguments]
        about = {"command": command, "folder": project.folder.resolve().name, "from": socket.gethostname()}
        try:
            self._copy_in(run, project, {**about, "begun": time.time()})
        except BaseException:
            with suppress(BatchError, ConnectionLostError, remote.RemoteError):
                self._scheduler.ask("remove", run=run)
            raise
        say(f"run {run} on stack {self._options.stack}: {shlex.join(command)}")
        return run, command

    def _copy_in(self, run: str, project: files.Project, about: dict[str, Any]) -> None:
        progress = _Progress(f"copying {files.counted(project.files)} in, {files.in_bytes(project.size)}", project.size)
        sums: dict[str, str] = {}

        def feed(pod: Any) -> None:
            sums.update(remote.pack(project.folder, project.files, project.folders, pod, progress.more))

        try:
            answer = self._scheduler.ask("receive", feed, run=run, about=about, files=len(project.files))
        except ConnectionLostError as error:
            raise BatchError(
                f"the connection was lost while copying: {error}\nFix: run the same command again"
            ) from None
        except OSError as error:
            raise BatchError(f"{error.filename} changed while it was copied: {error.strerror}") from None
        if answer["sums"] != sums:
            raise BatchError("the files did not arrive as they were sent.\nFix: run the same command again")
        progress.finish("done")

    def _see_through(self, run: str, results: Path, command: list[str] | None = None) -> int:
        """Starts `command`, follows the run to its end, copies its results out, and does what is to come then."""
        again = ["--attach", run, "--results", str(results.absolute()), "--then", self._options.then]
        try:
            try:
                if command:
                    self._scheduler.insist("launch", run=run, command=command)
                ended = self._scheduler.follow(run, _show)
            except remote.NoSuchRunError:
                say("the run's folder is gone: the scheduler pod ended, and its home does not outlive it (homeGiB)")
                return RUN_LOST
            except BrokenPipeError:
                raise KeyboardInterrupt from None  # nobody reads what this prints
            status = self._told(run, ended)
            self._copy_out(run, results)
        except KeyboardInterrupt:
            say(f"detached; the run goes on. To attach again:\n  {self._command(*again)}")
            say(f"to stop it:\n  {self._command('--stop', run)}")
            return DETACHED
        except BatchError as error:
            raise BatchError(f"{error}\nAll is kept. To go on: {self._command(*again)}") from None
        if status != 0:
            if self._options.then != "keep":
                say(f"--then {self._options.then} is for a success: stack, workers and the run's folder are kept")
        elif self._options.then == "release":
            self._release()
        elif self._options.then == "destroy":
            self._destroy(run)
        return status

    def _told(self, run: str, ended: dict[str, Any]) -> int:
        """Says how the run ended; returns the exit status."""
        if ended["state"] == "lost":
            how = self._scheduler.how_it_stands()
            say(f"the run is lost: the scheduler pod ended under it{f' ({how})' if how else ''}. Its log ends above")
            return RUN_LOST
        status = int(ended["status"])
        if ended["state"] == "stopped":
            say(f"run {run} was stopped (exit status {status})")
        elif status == 137:
            say("Rscript was killed (exit status 137), most likely for want of memory in the scheduler pod")
        else:
            say(f"Rscript ended with exit status {status}")
        return status

    def _copy_out(self, run: str, results: Path) -> None:
        patience = Patience(self._scheduler, say)
        while True:
            changed = self._scheduler.insist("changed", run=run)
            if not changed["files"]:
                say("no file is new or changed")
                return
            size = sum(size for _, size, _ in changed["files"])
            names = [path for path, _, _ in changed["files"]]
            progress = _Progress(f"copying {files.counted(names)} out, {files.in_bytes(size)}", size)

            def receive(take: Callable[[Any], dict[str, str]], names: list[str] = names) -> dict[str, str]:
                return self._scheduler.receive(take, run=run, files=names)

            try:
                placed = files.place(run, results, changed, receive, progress.more)
                break
            except ConnectionLostError as error:
                patience.wait(error)
            except OSError as error:
                raise BatchError(f"the results cannot be written to {results}: {error}") from None
        progress.finish("done")
        for path in changed["others"]:
            say(f"not a result: {path} is neither a file nor a folder, or a link to nowhere")
        for entry in placed[:SHOWN_RESULTS]:
            why = ": the file here was changed during the run and stays" if entry.how == "kept apart" else ""
            say(f"  {results / entry.path} ({entry.how}{why})")
        rest = placed[SHOWN_RESULTS:]
        if rest:
            apart = sum(entry.how == "kept apart" for entry in rest)
            say(f"  and {len(rest)} more" + (f", {apart} of them kept apart as NAME.{run}" if apart else ""))

    def _release(self) -> None:
        """Gives the workers back, and waits until Kubernetes has been told of it."""
        until = time.monotonic() + _RELEASE_SECONDS
        progress = _Progress("giving the workers back")
        # The run's own are in use for a moment after its end.
        while (stay := int(self._first("release")["stay"])) and time.monotonic() < until - _RELEASE_SECONDS + 15:
            progress.note("some are still in use")
            time.sleep(2)
        name = f"deployment/{self._scheduler.stack.release}-worker"
        while (left := self._scheduler.kubectl("get", name, "--output=jsonpath={.spec.replicas}")) != str(stay):
            if time.monotonic() > until:
                raise BatchError(
                    f"the workers were told to go, and {left or 'an unknown number'} are still wanted after "
                    f"{_RELEASE_SECONDS:.0f} s. The results are here.\nFix: in R, future.kubernetes::scale_workers(0)"
                )
            progress.note(f"{left or 'unknown'} left")
            time.sleep(1)
        progress.finish("done")
        if stay:
            say(f"{stay} workers stay: other sessions use them")

    def _destroy(self, run: str) -> None:
        running = [entry["run"] for entry in self._first("runs")["runs"] if entry["state"] == "running"]
        if running:
            raise BatchError(
                f"the stack is not destroyed, for {', '.join(running)} still runs on it. Results of {run} are here.\n"
                f"Fix: once they have ended: {shlex.join(self._scheduler.stack.destroy)}"
            )
        say(f"destroying stack {self._options.stack}")
        stack.destroy(self._scheduler.stack)
        say(f"stack {self._options.stack} is destroyed; the results are here")

    def _list(self) -> int:
        found = self._first("runs")["runs"]
        if not found:
            say("there are no runs")
            return 0
        rows = [("RUN", "STATE", "TOOK", "FOLDER", "FROM", "COMMAND"), *map(_row, found)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return 0

    def _stop(self, run: str) -> int:
        answer = self._first("stop", run=run)
        if answer["was"] == "running":
            say(f"run {run} is stopped (exit status {answer.get('status', 'unknown')}); its folder is kept")
        else:
            say(f"run {run} does not run: {_state_in_words(answer)}")
        return 0

    def _first(self, do: str, **details: Any) -> dict[str, Any]:
        """A request with a person waiting: one attempt, and how the pods stand where it fails."""
        try:
            return self._scheduler.ask(do, **details)
        except ConnectionLostError as error:
            how = self._scheduler.how_it_stands()
            up = "make up" if self._options.stack == "dev" else f"pulumi up --stack {self._options.stack}"
            raise BatchError(
                f"the scheduler of stack {self._options.stack!r} does not answer: {error}{f' ({how})' if how else ''}\n"
                f"Fix: wait if it starts, else: {up}"
            ) from None

    def _command(self, *arguments: str) -> str:
        """This command with other arguments, to be pasted."""
        python = Path(sys.executable)
        if python.is_relative_to(Path.cwd()):
            python = python.relative_to(Path.cwd())
        return shlex.join([str(python), "-m", "batch", "--stack", self._options.stack, *arguments])


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
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


class _Progress(Step):
    """On standard error, and where that is no terminal, a first line only when it takes long."""

    def __init__(self, title: str, total: int = 0) -> None:
        super().__init__(f"batch: {title}", sys.stderr, indent="")
        self._total, self._done = total, 0
        if not self._live:
            self._shown_at = self._started

    def more(self, amount: int) -> None:
        """So much more of the total is done."""
        self._done += amount
        self.note(f"{self._done / self._total:.0%}" if self._total else "")


if __name__ == "__main__":
    sys.exit(main())
