"""The report of a preview, made from the engine's events, by a `pulumi` of the test's own where one runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pulumi import automation

from ci import preview as command
from ci.preview_report import SHOWN, UNKNOWN, Preview, read_events, report
from common.errors import UserError
from common.paths import state_dir
from local import cluster, pulumi_engine
from tests.unit.cloud_mocks import ROOT

STACK = "urn:pulumi:gke-team::future-kubernetes::pulumi:pulumi:Stack::future-kubernetes-gke-team"
POOL = "urn:pulumi:gke-team::future-kubernetes::a:index:Cluster$gcp:container/nodePool:NodePool::workers"


def step(op: str, urn: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "urn": urn, "type": kind, "provider": "p", "old": None, "new": None, "detailedDiff": None, **more}


def pre(op: str, name: str = "workers", **more: Any) -> dict[str, Any]:
    urn = f"{POOL.rpartition('::')[0]}::{name}"
    return {"resourcePreEvent": {"metadata": step(op, urn, "gcp:container/nodePool:NodePool", **more)}}


def outputs(old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    def state(values: dict[str, Any] | None) -> dict[str, Any] | None:
        common = {"type": "pulumi:pulumi:Stack", "urn": STACK, "id": "", "parent": "", "provider": "", "inputs": {}}
        return None if values is None else {**common, "outputs": values}

    metadata = step("same", STACK, "pulumi:pulumi:Stack", old=state(old), new=state(new))
    return {"resOutputsEvent": {"metadata": metadata}}


def finding(level: str = "mandatory", message: str = "nodes get public addresses") -> dict[str, Any]:
    pack = {"policyPackName": "future-kubernetes", "policyPackVersion": "1", "policyPackVersionTag": "1"}
    return {"policyEvent": {"resourceUrn": POOL, "message": message, "color": "raw", "policyName": "no-public-nodes",
            "enforcementLevel": level, **pack}}  # fmt: skip


SUMMARY = {
    "summaryEvent": {"maybeCorrupt": False, "durationSeconds": 3, "resourceChanges": {"update": 1}, "PolicyPacks": {}}
}


def rendered(*events: dict[str, Any], failed: bool = False, folder: Path) -> str:
    log = folder / "events"
    log.write_text("".join(json.dumps({"sequence": n, "timestamp": 1, **e}) + "\n" for n, e in enumerate(events)))
    return report("gke-team", Preview.of(read_events(log)), failed)


def test_changes_are_counted_by_kind_and_listed_with_their_properties(tmp_path: Path) -> None:
    text = rendered(
        pre("update", diffs=["nodeCount"]), pre("create", "more"), pre("create", "most"), pre("same"), SUMMARY,
        folder=tmp_path,
    )  # fmt: skip
    assert text.splitlines()[0] == "### Preview of stack `gke-team`: 2 to create, 1 to update"
    assert "| ~ update | `gcp:container/nodePool:NodePool` | `workers` | `nodeCount` |" in text
    assert "same" not in text


def test_a_replacement_counts_once(tmp_path: Path) -> None:
    steps = [pre("create-replacement"), pre("replace", keys=["machineType"]), pre("delete-replaced"), SUMMARY]
    assert rendered(*steps, folder=tmp_path).splitlines()[0].endswith(": 1 to replace")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ({"hourlyCost": "$1.20"}, {"hourlyCost": "$4.80"}, "`hourlyCost`: `$1.20` before, `$4.80` after"),
        (None, {"hourlyCost": "$4.80"}, "`hourlyCost`: `none` before, `$4.80` after"),
        ({"hourlyCost": "unknown"}, {"hourlyCost": UNKNOWN}, "`unknown` before, `known after the update` after"),
        (
            {"hourlyCost": "unknown"},
            {"hourlyCost": {"now": "$1.20", "idle": "$0.30", "max": "$4.80", "parts": {"NAT": "$0.05"}}},
            "`hourlyCost`: `unknown` before, `$1.20 now, $0.30 idle, $4.80 at most` after",
        ),
        (
            {"hourlyCost": {"now": "$1", "idle": "$1", "max": "$1"}},
            {"hourlyCost": UNKNOWN},
            "`$1 now, $1 idle, $1 at most` before, `known after the update` after",
        ),
        ({"hourlyCost": "$1.20"}, None, "`hourlyCost`: `$1.20` before, `not computed` after"),
    ],
)
def test_the_cost_is_shown_before_and_after(
    tmp_path: Path, old: dict[str, Any] | None, new: dict[str, Any] | None, line: str
) -> None:
    assert line in rendered(outputs(old, new), SUMMARY, folder=tmp_path)


def test_no_value_but_the_cost_is_shown(tmp_path: Path) -> None:
    state = {"type": "t", "urn": POOL, "id": "", "parent": "", "provider": "", "inputs": {"key": "geheim"}}
    new = {**state, "outputs": {"key": "geheim"}}
    values = {"hourlyCost": "$1.00", "password": "geheim", "namespace": "geheim"}
    text = rendered(pre("update", new=new, diffs=["key"]), outputs(values, values), SUMMARY, folder=tmp_path)
    assert "geheim" not in text
    assert "`key`" in text


def test_findings_name_level_policy_resource_and_reason(tmp_path: Path) -> None:
    text = rendered(finding(), finding("advisory", "a | pipe"), SUMMARY, folder=tmp_path)
    assert "Policy pack: 2 findings." in text
    assert "| `mandatory` | `no-public-nodes` | `workers` | `nodes get public addresses` |" in text
    assert "`a \\| pipe`" in text
    assert "Policy pack: no findings." in rendered(SUMMARY, folder=tmp_path)


@pytest.mark.parametrize("events", [[pre("create")], []])
def test_a_preview_that_did_not_reach_its_end_says_so(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    assert "**The preview failed**" in rendered(*events, folder=tmp_path)
    assert "**The preview failed**" in rendered(*events, SUMMARY, failed=True, folder=tmp_path)
    assert "**The preview failed**" not in rendered(*events, SUMMARY, folder=tmp_path)


def test_a_name_cannot_break_out_of_its_cell(tmp_path: Path) -> None:
    text = rendered(pre("create", "`@team`\n<img src=x>| x"), SUMMARY, folder=tmp_path)
    (row,) = [line for line in text.splitlines() if "+ create" in line]
    assert "`'@team' <img src=x>\\| x`" in row


def test_a_long_list_fits_a_comment(tmp_path: Path) -> None:
    steps = [pre("create", f"{'n' * 300}{n}", diffs=["d" * 60] * 20) for n in range(SHOWN + 7)]
    text = rendered(*steps, SUMMARY, folder=tmp_path)
    assert "... and 7 more" in text
    assert text.count("+ create") == SHOWN


FAKE = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
with open({calls!r}, "a") as file:
    file.write(json.dumps(arguments) + "\\n")
if arguments[:2] == ["stack", "select"]:
    if arguments[2] == "unborn":
        sys.exit("error: no stack named 'unborn' found")
    sys.exit("error: the bucket is closed" if arguments[2] == "closed" else 0)
if arguments[0] == "preview":
    assert os.environ["PULUMI_DEBUG_COMMANDS"] == "true"  # else the CLI has no option --event-log
    with open(arguments[arguments.index("--event-log") + 1], "w") as file:
        file.write({events!r})
sys.exit({status})
"""


class FakePulumi:
    """A `pulumi` on PATH that notes how it is called and writes the events it is given."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.log = folder, folder / "calls"
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(self, events: Sequence[dict[str, Any]] = (), status: int = 0) -> None:
        text = "".join(json.dumps({"sequence": 1, "timestamp": 1, **event}) + "\n" for event in events)
        program = self.folder / "pulumi"
        program.write_text(FAKE.format(python=sys.executable, calls=str(self.log), events=text, status=status))
        program.chmod(0o755)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePulumi:
    fake = FakePulumi(tmp_path, monkeypatch)
    fake.write([pre("create"), SUMMARY])
    return fake


def test_preview_checks_the_stack_by_policy_and_writes_its_report(
    pulumi: FakePulumi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    assert command.preview("gke-team", tmp_path / "reports", {}) == 0
    (_, called) = pulumi.calls()
    assert called[:3] == ["preview", "--stack", "gke-team"]
    assert called[called.index("--policy-pack") + 1] == "policy"
    assert os.listdir(tmp_path / "reports") == ["gke-team.md"]
    written = (tmp_path / "reports" / "gke-team.md").read_text()
    assert "1 to create" in written
    assert (tmp_path / "summary").read_text() == written


def test_preview_that_the_policy_refuses_fails_with_its_findings(pulumi: FakePulumi, tmp_path: Path) -> None:
    pulumi.write([finding(), SUMMARY], status=255)
    assert command.preview("gke-team", tmp_path / "reports", {}) == 255
    written = (tmp_path / "reports" / "gke-team.md").read_text()
    assert "**The preview failed**" in written
    assert "no-public-nodes" in written


def test_stack_that_the_backend_lacks_is_reported_without_failure(pulumi: FakePulumi, tmp_path: Path) -> None:
    assert command.preview("unborn", tmp_path / "reports", {}) == 0
    assert "no such stack yet" in (tmp_path / "reports" / "unborn.md").read_text()
    assert len(pulumi.calls()) == 1


def test_a_backend_that_does_not_answer_is_a_failure(pulumi: FakePulumi, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the bucket is closed"):
        command.preview("closed", tmp_path / "reports", {})
    assert pulumi.calls()


def deploy(stack: str) -> subprocess.CompletedProcess[str]:
    script = ["bash", str(ROOT / "ci" / "deploy.sh"), stack]
    return subprocess.run(script, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("status", [0, 7])
def test_a_deployment_is_one_update_under_the_policy_pack(pulumi: FakePulumi, status: int) -> None:
    pulumi.write(status=status)
    assert deploy("gke-team").returncode == status
    (_, called) = pulumi.calls()
    assert called[:4] == ["up", "--stack", "gke-team", "--yes"]
    assert called[-2:] == ["--policy-pack", "policy"]


def test_a_deployment_makes_no_new_stack(pulumi: FakePulumi) -> None:
    done = deploy("unborn")
    assert (done.returncode, len(pulumi.calls())) == (0, 1)
    assert "pulumi stack init unborn" in done.stdout
    done = deploy("closed")
    assert (done.returncode, len(pulumi.calls())) == (1, 2)
    assert "the bucket is closed" in done.stderr


def test_stack_dev_is_previewed_in_place_with_this_checkouts_settings(
    pulumi: FakePulumi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("FUTURE_KUBERNETES_CLUSTER", raising=False)
    folder = state_dir("dev")
    folder.mkdir(parents=True)
    node = cluster.Node("dev", 1, folder / "kubeconfig", tmp_path / "programs")
    monkeypatch.setattr(cluster, "running", lambda _name: node)
    engine = pulumi_engine.PulumiEngine(automation.PulumiCommand.__new__(automation.PulumiCommand), node, "dev")
    mine = command.local_environment()
    for name in ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        assert mine[name] == engine._environment[name]
    salted = {
        "encryptionsalt": "v1:x",
        "config": {"future-kubernetes:image": "r@sha256:1", "future-kubernetes:workers": 99},
    }
    (folder / "Pulumi.dev.yaml").write_text(yaml.safe_dump(salted))
    assert command.main(["dev", str(tmp_path / "reports")]) == 0
    (_, called) = pulumi.calls()
    written = yaml.safe_load(Path(called[called.index("--config-file") + 1]).read_text())
    assert written["encryptionsalt"] == "v1:x"
    assert written["config"]["future-kubernetes:image"] == "r@sha256:1"
    assert written["config"] | yaml.safe_load((ROOT / "Pulumi.dev.yaml").read_text())["config"] == written["config"]


def test_stack_dev_without_a_cluster_names_the_fixing_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "running", lambda _name: None)
    assert command.main(["dev", str(tmp_path)]) == 1
    assert "fix: make up" in capsys.readouterr().err
