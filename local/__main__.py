"""Commands for tests and for debugging: `python -m local tools`, and parts of `up`: `python -m local standin`.

Users have the command `future-kubernetes`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence

import pulumi

from common.errors import UserError
from common.paths import LOCAL_STACK
from local import go_binaries
from local.standin import apply


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for an error that the user can fix, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        return 130
    except (UserError, pulumi.RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("tools", help="build the node's and the tests' programs; prints their folders")
    build.set_defaults(run=_tools)
    standin = commands.add_parser("standin", help="run only the stand-in for Pulumi, on a cluster that runs already")
    standin.add_argument("action", choices=["up", "outputs", "down"])
    standin.add_argument("--config", action="append", default=[], metavar="KEY=VALUE")
    standin.set_defaults(run=_standin)
    return parser


def _tools(_arguments: argparse.Namespace) -> None:
    modules = (go_binaries.NODE, go_binaries.KUBE_SCORE, go_binaries.PROMTOOL, go_binaries.KWOK)
    print(json.dumps([str(go_binaries.build(module)) for module in modules]))


def _standin(arguments: argparse.Namespace) -> None:
    if arguments.action == "up":
        apply.up(LOCAL_STACK, dict(pair.split("=", 1) for pair in arguments.config))
    elif arguments.action == "down":
        apply.down()
    else:
        print(json.dumps(apply.outputs(), indent=2))


if __name__ == "__main__":
    sys.exit(main())
