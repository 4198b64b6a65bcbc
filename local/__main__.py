"""Command line of the local cluster, behind the Makefile: `python -m local up|down|status|password|tools`.

`up` starts Kubernetes, builds the image, brings stack `dev` up by the Pulumi CLI (or by the stand-in where the CLI
cannot be had), and ends with a parallel R run that proves it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pulumi

from common.errors import UserError
from common.paths import state_dir
from components.settings.model import Settings
from local import cluster, debian, image, machine, proof, pulumi_cli, tools
from local.engine import pair, read_settings

STACK = "dev"
# The tests run all of this on a cluster of another name, beside the one of `make up`.
CLUSTER = os.environ.get("FUTURE_KUBERNETES_CLUSTER", "dev")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 for what a person can mend, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is lost: run it again and it goes on from here.", file=sys.stderr)
        return 130
    except (UserError, pulumi.RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != 28:  # ENOSPC
            raise
        print(f"error: the disk is full: {error}. Free some space, then run it again.", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    commands = parser.add_subparsers(required=True)
    up = commands.add_parser("up", help="Kubernetes, the image, stack dev, and a parallel R run")
    up.add_argument(
        "--config", type=pair, action="append", default=[], metavar="KEY=VALUE", help="over Pulumi.dev.yaml's"
    )
    up.add_argument("--full", action="store_true", help="the article's full size: 40 means of ten million numbers")
    up.set_defaults(run=_up)
    commands.add_parser("down", help="remove stack and cluster").set_defaults(run=_down)
    commands.add_parser("status", help="what runs, and its commands").set_defaults(run=_status)
    commands.add_parser("password", help="the IDE's password").set_defaults(run=_password)
    build = commands.add_parser("tools", help="build the node's and the tests' programs; prints their folders")
    build.set_defaults(run=_tools)
    return parser


def _up(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    overrides = dict(arguments.config)
    settings = _settings(overrides)
    machine.preflight()
    node, reference = start_with_image(CLUSTER, request_for(settings))
    engine = pulumi_cli.engine_for(node, STACK)
    outputs = engine.up(STACK, {**overrides, "image": overrides.get("image", reference)})
    measured = proof.prove(node, outputs, proof.ARTICLE_LENGTH if arguments.full else proof.SHORT_LENGTH)
    print(proof.report(measured, outputs))
    print(f"All of it took {time.monotonic() - started:.0f} s. `make down` removes everything again.")


def start_with_image(name: str, request: image.ImageRequest) -> tuple[cluster.Node, str]:
    """A started cluster with the image in its registry, and the reference by which pods run it.

    Compiling takes the processors and installing takes the network, so both are done at once.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        debian.ensure(debian.NODE_ROOT)
        built = pool.submit(image.build, request)
        compiled = pool.submit(tools.build, tools.NODE)
        compiled.result()
        node = cluster.start(name)
        built.result()
    return node, image.push(node, request)


def request_for(settings: Settings) -> image.ImageRequest:
    """What the stack's settings ask of the image."""
    return image.ImageRequest(settings.ide, tuple(sorted(settings.r_packages)), tuple(sorted(settings.apt_packages)))


def _settings(overrides: Mapping[str, str]) -> Settings:
    """Stack dev's settings, or every error in them at once, before the first minute is spent."""
    settings = read_settings(STACK, overrides)
    if settings.cloud != "local":
        raise UserError(f"Stack {STACK} has cloud {settings.cloud!r}; `make up` is for this machine. Fix: pulumi up")
    return settings


def _down(_arguments: argparse.Namespace) -> None:
    node = cluster.running(CLUSTER)
    if node is not None:
        pulumi_cli.engine_for(node, STACK).forget(STACK)
    print("Everything is gone." if cluster.stop(CLUSTER) else "Nothing was there.")


def _running() -> cluster.Node:
    node = cluster.running(CLUSTER)
    if node is None:
        raise UserError("Kubernetes does not run on this machine. Fix: make up")
    return node


def _status(_arguments: argparse.Namespace) -> None:
    node = _running()
    print(node.kubectl("get", "nodes,pods", "--all-namespaces", "-o", "wide").stdout)
    for key, value in _outputs(node).items():
        print(f"{key:18} {'[secret]' if key in ('password', 'kubeconfig') else value}")
    print(f"{'logs':18} {state_dir(CLUSTER) / 'upper/var/log/node'}")


def _password(_arguments: argparse.Namespace) -> None:
    print(_outputs(_running())["password"])


def _outputs(node: cluster.Node) -> Mapping[str, Any]:
    return pulumi_cli.engine_for(node, STACK).outputs(STACK)


def _tools(_arguments: argparse.Namespace) -> None:
    folders: list[Path] = [tools.build(module) for module in (tools.NODE, tools.KUBE_SCORE, tools.KWOK)]
    print(json.dumps([str(folder) for folder in folders]))


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
