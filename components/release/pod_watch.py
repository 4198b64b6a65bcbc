"""Watches the pods of a Helm release start, and reports a permanent problem within seconds.

Without it Helm would wait until its time-out, for example for an image that does not exist, and report only that.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.kubectl import Kubectl
from common.patience import patience
from image.broker.diagnosis import PodProblem, creation_problems, last_seen, pod_problems, summary

POLL_SECONDS = 2.0


@dataclass
class PodWatch:
    """The pods of one Helm release during an update, with their `progress` in words.

    kubectl: with the release's namespace. grace_scale: factor on the grace of a reason, for clusters where an
    autoscaler may still add a node (Unschedulable).
    """

    kubectl: Kubectl
    release: str
    grace_scale: Mapping[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    progress: str = "waiting for the first pod"
    _since: dict[tuple[str, str], float] = field(default_factory=dict)
    _started_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def check(self) -> PodProblem | None:
        """Queries the cluster once; returns a permanent problem, or None.

        A failed query does not count as a problem: the API server may be restarting.
        """
        try:
            answer = self.kubectl.run(
                "get", "pods,events", "--output=json", f"--request-timeout={patience(10):.0f}s", timeout=20
            )
            items = json.loads(answer.stdout)["items"] if answer.returncode == 0 else []
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return None
        pods = [item for item in items if item["kind"] == "Pod" and self._is_ours(item)]
        # A terminating pod counts against a quota, which may refuse its successor until the pod is gone.
        terminating = any(item["kind"] == "Pod" and item["metadata"].get("deletionTimestamp") for item in items)
        names = {pod["metadata"]["name"] for pod in pods}
        events = [item for item in items if item["kind"] == "Event" and self._concerns(item, names)]
        current = [
            replace(problem, earlier=pod["metadata"].get("creationTimestamp", "~") < self._started_at)
            for pod in pods
            for problem in pod_problems(pod, events)
        ]
        current += [
            problem
            for problem in creation_problems(events)
            if not (terminating and "exceeded quota" in problem.message)
        ]
        self.progress = summary(pods, events)
        return self._permanent(current)

    def last_log_lines(self, problem: PodProblem) -> str:
        """Return the end of a crashed container's log, which has the reason; empty for other problems."""
        if problem.reason != "CrashLoopBackOff":
            return ""
        pod = problem.subject.removeprefix("pod ")
        log = self.kubectl.run("logs", "--previous", "--tail=8", pod, timeout=20)
        return log.stdout.strip() if log.returncode == 0 else ""

    def report(self, problem: PodProblem) -> str:
        """Return the problem, followed by the end of the log if there is one."""
        log = self.last_log_lines(problem)
        if not log:
            return str(problem)
        lines = "\n".join(f"      {line}" for line in log.splitlines())
        return f"{problem}\n    the end of its log:\n{lines}"

    def _is_ours(self, pod: Mapping[str, Any]) -> bool:
        labels = pod["metadata"].get("labels", {})
        return labels.get("app.kubernetes.io/instance") == self.release and not pod["metadata"].get("deletionTimestamp")

    def _concerns(self, event: Mapping[str, Any], pods: set[str]) -> bool:
        # Kubernetes keeps events for an hour; events of an earlier update must not count.
        if last_seen(event) < self._started_at:
            return False
        kind, name = event["involvedObject"].get("kind"), event["involvedObject"].get("name", "")
        return name in pods if kind == "Pod" else kind in ("ReplicaSet", "PersistentVolumeClaim")

    def _permanent(self, current: Sequence[PodProblem]) -> PodProblem | None:
        now = self.clock()
        seen = {(problem.subject, problem.family): problem for problem in current}
        self._since = {key: self._since.get(key, now) for key in seen}
        for key, problem in seen.items():
            if now - self._since[key] >= patience(problem.grace) * self.grace_scale.get(problem.reason, 1.0):
                return problem
        return None
