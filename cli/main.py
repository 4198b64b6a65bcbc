"""The command line `future-kubernetes`: its commands, their options and help, and exit statuses."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli import connect as connections
from cli import stack
from cli.errors import FAILED, INTERRUPTED
from cli.installed import installed
from cli.pod_files import AgentError
from cli.runs import Runs, Then, say
from common.errors import UserError
from common.paths import LOCAL_STACK, REPO

HERE = "Stack dev on this machine"
ANY = "Any stack"
RUNS = "Runs without a browser, on any stack"
HELP = """
Elastic parallel R on Kubernetes.

Start with `future-kubernetes up`: it starts Kubernetes on this machine, and on it stack dev, with RStudio or JupyterLab
and R workers. Stacks in a cloud are created by `pulumi up`; the commands below use them with `--stack`.

Exit status of `run` and `attach`: that of Rscript; 124 where the scheduler pod ended during the run; 125 where this
command failed. Of every command: 130 after Ctrl-C.
"""

app = typer.Typer(
    name="future-kubernetes",
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)

StackName = Annotated[
    str,
    typer.Option(
        "--stack",
        metavar="NAME",
        help="Name of the stack, as in `pulumi stack ls`.",
        autocompletion=lambda: [path.suffixes[0][1:] for path in REPO.glob("Pulumi.*.yaml")],
    ),
]
Results = Annotated[Path | None, typer.Option("--results", metavar="DIR", help="Folder for the results.")]
AfterSuccess = Annotated[
    Then,
    typer.Option(
        "--then",
        help="What follows a success, once the results are here: keep everything, release the workers (scale to 0), or "
        "destroy the stack with the scheduler's home.",
    ),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run, as in `future-kubernetes runs`.")]


@app.command(rich_help_panel=HERE)
def up(
    config: Annotated[
        list[str] | None,
        typer.Option("--config", metavar="KEY=VALUE", help="A setting over Pulumi.dev.yaml's; may be repeated."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Smoke test in the article's size: 40 means of ten million numbers.")
    ] = False,
) -> None:
    """Start Kubernetes on this machine, build the image, create or update stack dev, and test it by a parallel R run.

    Needs Linux and root. Run it again after a change, an error or Ctrl-C: it continues from there.
    """
    pairs = {}
    for text in config or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE, as in: --config workers=8")
        pairs[key] = value
    from local import lifecycle  # only here and in `down`: the product does not depend on the local cluster

    os.umask(0o022)
    try:
        lifecycle.up(pairs, full=full)
    except KeyboardInterrupt:
        say("interrupted. Nothing is lost: the same command continues from here.")
        raise


@app.command(rich_help_panel=HERE)
def down() -> None:
    """Remove stack dev and its cluster, files in the scheduler's home included."""
    from local import lifecycle

    print("Everything is gone." if lifecycle.down() else "Nothing was there.")


@app.command(rich_help_panel=ANY)
def status(name: StackName = LOCAL_STACK) -> None:
    """Show the pods of a stack, and the commands to reach it."""
    with stack.opened(name) as opened:
        pods = opened.kubectl.run("get", "pods", "--output=wide")
        print(pods.stdout or f"The cluster does not answer: {pods.stderr.strip()}")
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in opened.outputs.items():
            table.add_row(key, "[secret]" if key in ("password", "kubeconfig") else str(value))
        if opened.logs:
            table.add_row("logs", opened.logs)
        width = None if sys.stdout.isatty() else 10_000
        Console(width=width, markup=False, emoji=False, highlight=False).print(table)


@app.command(rich_help_panel=ANY)
def password(name: StackName = LOCAL_STACK) -> None:
    """Print the IDE's password."""
    with stack.opened(name) as opened:
        print(opened.outputs["password"])


@app.command(rich_help_panel=ANY)
def connect(
    name: Annotated[
        str, typer.Argument(metavar="[STACK]", help="Name of the stack, as in `pulumi stack ls`.")
    ] = LOCAL_STACK,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port on this machine; the next free one is taken.")
    ] = 8787,
    browser: Annotated[bool, typer.Option(help="Open the IDE in the browser.")] = True,
    show_password: Annotated[bool, typer.Option("--password", help="Print the password too.")] = False,
    namespace: Annotated[
        str,
        typer.Option(
            help="Instead of a stack: a release that Helm installed there, by the kubeconfig's current context."
        ),
    ] = "",
    release: Annotated[str, typer.Option(help="Name of that release, where the namespace has several.")] = "",
) -> None:
    """Forward the IDE's port to this machine until Ctrl-C, and open the IDE.

    The forward is made again whenever it drops: the pod was replaced, the laptop slept, the network changed. Sessions
    and futures go on meanwhile.
    """
    if release and not namespace:
        raise UserError(f"--release {release} is given without --namespace.\nFix: add the release's --namespace")
    if namespace and name != LOCAL_STACK:
        raise UserError(f"both stack {name!r} and --namespace {namespace} are given.\nFix: leave out one of them")
    if namespace:
        found = installed(namespace, release, with_password=show_password)
        connections.connect(found, port, browser=browser, show_password=show_password)
        return
    with stack.opened(name) as opened:
        connections.connect(opened, port, browser=browser, show_password=show_password)


@app.command(rich_help_panel=RUNS)
def run(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The project folder, which is copied in.")],
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="The R script, by its path in FOLDER.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENT", help="Arguments of the script, after --.")
    ] = None,
    name: StackName = LOCAL_STACK,
    results: Results = None,
    then: AfterSuccess = Then.keep,
) -> int:
    """Run an R script of a project folder in the cluster, and copy its results back.

    `Rscript SCRIPT` runs in a copy of FOLDER, as the IDE's user and with the image's packages. Its output goes to
    standard output. New and changed files are copied out at its end, also after a failure: into FOLDER, as if Rscript
    had run there, or into --results.

    After Ctrl-C or a lost network the run continues; `attach` follows it again. Not copied: .git, .Rproj.user, renv's
    library, and what FOLDER/.batchignore names by the rules of .gitignore.
    """
    with stack.opened(name) as opened:
        return Runs.on(opened).start(folder, script, arguments or [], results, then)


@app.command("runs", rich_help_panel=RUNS)
def list_runs(name: StackName = LOCAL_STACK) -> None:
    """List all runs with their state, oldest first."""
    with stack.opened(name) as opened:
        Runs.on(opened).list()


@app.command(rich_help_panel=RUNS)
def attach(run: RunName, name: StackName = LOCAL_STACK, results: Results = None, then: AfterSuccess = Then.keep) -> int:
    """Follow a run from the beginning of its log, and copy its results into ./RUN or --results."""
    with stack.opened(name) as opened:
        return Runs.on(opened).attach(run, results, then)


@app.command(rich_help_panel=RUNS)
def stop(run: RunName, name: StackName = LOCAL_STACK) -> None:
    """Stop a run; its folder in the cluster and the results so far are kept."""
    with stack.opened(name) as opened:
        Runs.on(opened).stop(run)


@app.command(rich_help_panel=RUNS)
def remove(run: RunName, name: StackName = LOCAL_STACK) -> None:
    """Delete the folder of a run in the cluster."""
    with stack.opened(name) as opened:
        Runs.on(opened).remove(run)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    # A script's own status may be 1 or 2 as well.
    of_a_run = bool(given) and given[0] in ("run", "runs", "attach", "stop", "remove")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # private files are then removed too
    try:
        status: Any = app(given, standalone_mode=False)
    except typer.TyperException as error:
        print(f"error: {error.format_message()}\nFix: future-kubernetes {_help_of(given)}--help", file=sys.stderr)
        return FAILED if of_a_run else error.exit_code
    except (UserError, AgentError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED if of_a_run else 1
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"error: the disk is full: {error}\nFix: free some space, then run the same command again", file=sys.stderr
        )
        return FAILED if of_a_run else 1
    return status or 0


def _help_of(given: Sequence[str]) -> str:
    names = [
        command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
    ]
    return f"{given[0]} " if given and given[0] in names else ""


def run_program() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
