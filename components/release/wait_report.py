"""Reports, during `pulumi up`, why the Helm release waits: the reason of a pod that does not start, within seconds.

The provider of the release is silent until its time-out. It cannot be ended from here; Ctrl-C ends it.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Sequence

import pulumi

from common.kubectl import Kubectl, find_program
from common.patience import patience
from common.private_files import private_file
from components.release.pod_watch import POLL_SECONDS, PodWatch

UNSCHEDULABLE_SCALE = 8
"""Factor on the grace of Unschedulable: two minutes, in which an autoscaler may add a node."""


def report_wait(
    kubeconfig: pulumi.Output[str],
    namespace: str,
    name: str,
    before: Sequence[pulumi.Resource],
    release: pulumi.Resource,
    seconds: float,
) -> None:
    """Starts to report when all of `before` exist, and stops when `release` does, or after `seconds`.

    Nothing is reported in a preview, and without kubectl.
    """
    program = find_program("kubectl")
    if pulumi.runtime.is_dry_run() or program is None:
        return
    finished = threading.Event()
    # The SDK finds its connection to the engine by a context variable, which a thread does not inherit.
    context = contextvars.copy_context()

    def start(known: Sequence[str]) -> None:
        arguments = (program, known[0], namespace, name, finished, seconds)
        if not finished.is_set():
            # A daemon: the program of a failed update must end.
            threading.Thread(target=context.run, args=(watch, *arguments), daemon=True).start()

    pulumi.Output.all(kubeconfig, *(each.urn for each in before)).apply(start)
    release.urn.apply(lambda _urn: finished.set())


def watch(program: str, kubeconfig: str, namespace: str, name: str, finished: threading.Event, seconds: float) -> None:
    """Reports from a kubeconfig's text. kubectl reads it more than once, so it is in a file that others cannot read."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(private_file(kubeconfig))
        # The end of the program ends a daemon without its clean-up.
        atexit.register(stack.close)
        stack.callback(atexit.unregister, stack.close)
        pods = PodWatch(Kubectl(program, file, namespace), name, {"Unschedulable": UNSCHEDULABLE_SCALE})
        with contextlib.suppress(OSError):  # kubectl is gone: a report that fails must not look like a failed update
            report(pods, name, finished, seconds, pulumi.log.warn)


def report(pods: PodWatch, name: str, finished: threading.Event, seconds: float, say: Callable[[str], None]) -> None:
    """Says each permanent problem of the pods once, until `finished` or for `seconds`."""
    said: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not finished.wait(patience(POLL_SECONDS)):
        problem = pods.check()
        if problem and (key := f"{problem.subject} {problem.family}") not in said:
            said.add(key)
            say(
                f"release {name} waits for {pods.report(problem)}\n"
                f"    fix:     Ctrl-C, which undoes the release; then fix the reason, and pulumi up"
            )
