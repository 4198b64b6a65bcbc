"""Runs, with a kubectl that runs the agent on this machine and cuts connections on demand.

`Rscript` is a shell here: these tests are about files, output and exit status, not about R.
"""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import client, files, main, pod_agent, pod_files, runs, stack
from common.errors import UserError
from common.kubectl import Kubectl
from common.local_stack import LocalStack
from common.paths import REPO

pytestmark = pytest.mark.timeout(60)

PYTHON = os.path.realpath(sys.executable)
KUBECTL = '''#!{python} -IS
"""Of a request's faults the first is made: cut N (bytes of answer), starve N (bytes of input), hang or refuse."""
import json, os, pathlib, subprocess, sys, threading, time
folder = pathlib.Path({folder!r})
if "exec" not in sys.argv:
    print((folder / "answer").read_text(), end="")
    sys.exit()
stdin = sys.stdin.buffer
head = stdin.readline()  # the agent's sources
line = stdin.readline()
faults = json.loads((folder / "faults").read_text())
fault = (faults.get(json.loads(line)["do"]) or [""]).pop(0).split()
(folder / "faults").write_text(json.dumps(faults))
if fault[:1] == ["refuse"]:
    sys.exit("error: dial tcp: i/o timeout")
if fault[:1] == ["hang"]:
    time.sleep(600)
environment = {{**os.environ, "HOME": str(folder / "home"), "PATH": str(folder / "bin") + ":" + os.environ["PATH"]}}
command = sys.argv[sys.argv.index("--") + 1:]
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder / "home")
def feed():
    try:
        child.stdin.write(head + line)
        left = int(fault[1]) if fault[:1] == ["starve"] else 1 << 60
        while left and (data := stdin.read1(min(left, 65536))):
            child.stdin.write(data)
            left -= len(data)
        child.stdin.close()
    except BrokenPipeError:
        pass
threading.Thread(target=feed, daemon=True).start()
left = int(fault[1]) if fault[:1] == ["cut"] else 1 << 60
while left and (data := child.stdout.read1(min(left, 65536))):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    left -= len(data)
child.stdout.close()
if not left:
    child.kill()
    sys.exit("error: connection reset by peer")
sys.exit(child.wait())
'''


@dataclass
class Place:
    """A pretended stack: its home, the faults that its kubectl is to make, and a project folder on the laptop."""

    folder: Path
    project: Path
    output: pytest.CaptureFixture[bytes]
    told: bytes = b""
    printed: bytes = b""

    @property
    def runs(self) -> list[Path]:
        return sorted((self.folder / "home/batch").glob("*"))

    def script(self, text: str) -> None:
        (self.project / "main.R").write_text(text)

    def faults(self, **faults: list[str]) -> None:
        (self.folder / "faults").write_text(json.dumps(faults))

    def batch(self, *arguments: str) -> int:
        status = main.main(arguments)
        captured = self.output.readouterr()
        self.printed, self.told = captured.out, captured.err
        return status

    def run(self, *options: str) -> int:
        return self.batch("run", str(self.project), "main.R", *options)

    def destroyed(self) -> bool:
        return (self.folder / "destroyed").exists()


@pytest.fixture
def place(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Place:
    folder = tmp_path / "pod"
    (folder / "home").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "answer").write_text('{"items": []}')
    for path, text in (
        ("kubectl", KUBECTL.format(python=PYTHON, folder=str(folder))),
        ("bin/Rscript", '#!/bin/sh\nexec sh "$@"\n'),
    ):
        (folder / path).write_text(text)
        (folder / path).chmod(0o755)
    (folder / "bin/python3").symlink_to(PYTHON)
    project = tmp_path / "analysis"
    project.mkdir()
    (project / "input").write_text("42\n")
    pretended = stack.Stack(
        "team-a", Kubectl(str(folder / "kubectl"), folder / "kubeconfig", "team-a"), "future",
        "pulumi up --stack team-a", ("sh", "-c", f"touch {folder / 'destroyed'}"),
    )  # fmt: skip

    @contextmanager
    def opened(name: str) -> Iterator[stack.Stack]:
        assert name in ("dev", "team-a")
        yield pretended

    monkeypatch.setattr(stack, "opened", opened)
    found = Place(folder, project, capfdbinary)
    found.faults()
    found.script("cat input > out; echo done")
    return found


def test_the_scripts_output_results_and_status_are_the_commands(place: Place) -> None:
    place.script('mkdir -p deep; cp input deep/out; echo "$@"; echo error >&2; exit 3')
    assert place.run("--", "--stack", "two words") == 3
    assert place.printed == b"--stack two words\nerror\n"
    assert (place.project / "deep/out").read_text() == "42\n"
    assert b"deep/out (new)" in place.told
    # Neither input nor script are results.
    assert b"input" not in place.told
    assert (place.runs[0].stat().st_mode & 0o777) == 0o700


REPORT = """#!/bin/sh
echo "$@" >&2
test -e report.html && exit 1
echo "report $2 of $1" > report.html
"""


@pytest.mark.parametrize("status", [0, 3])
def test_report_is_a_result_also_of_a_failure_and_in_time(place: Place, status: int) -> None:
    (place.folder / "bin/future-report").write_text(REPORT.replace("test -e", "sleep 0.5; test -e"))
    (place.folder / "bin/future-report").chmod(0o755)
    place.script(f"echo $FUTURE_KUBERNETES_BATCH_RUN; exit {status}")
    assert place.run("--", "two words") == status
    run = place.runs[0].name
    assert place.printed.startswith(f"{run}\n{run} ".encode())
    assert f" Run {run}: Rscript main.R two words\n".encode() in place.printed
    assert b"report.html (new)" in place.told
    words = (place.project / "report.html").read_text().split()
    assert words[-1] == run
    assert 0 <= time.time() - float(words[1]) < 30


def test_failing_report_leaves_the_status_and_a_stopped_run_has_one(place: Place) -> None:
    (place.folder / "bin/future-report").write_text(REPORT)
    (place.folder / "bin/future-report").chmod(0o755)
    (place.project / "report.html").write_text("mine")
    place.script("exit 4")
    assert place.run() == 4
    assert (place.project / "report.html").read_text() == "mine"
    (place.project / "report.html").unlink()
    (failed,) = place.runs
    place.script("echo here; sleep 30")

    def stop() -> None:
        (running,) = set(place.runs) - {failed}  # runs of one second are in no order
        place.batch("stop", running.name)

    with _once_printed(stop):
        assert place.run() == 143
    assert (place.project / "report.html").exists()


def test_results_go_to_a_folder_of_their_own(place: Place, tmp_path: Path) -> None:
    assert place.run("--results", str(tmp_path / "results/of/this")) == 0
    assert (tmp_path / "results/of/this/out").read_text() == "42\n"
    assert not (place.project / "out").exists()


def test_a_changed_input_is_a_result_though_size_and_modification_time_are_as_they_were(place: Place) -> None:
    place.script("touch -r input mark; echo 43 > input; touch -r mark input")
    assert place.run() == 0
    assert (place.project / "input").read_text() == "43\n"
    assert b"input (replaced)" in place.told


def test_a_file_changed_here_during_the_run_stays(place: Place) -> None:
    place.script(f"echo theirs > input; sleep 0.1; echo mine > {place.project}/input")
    assert place.run() == 0
    assert (place.project / "input").read_text() == "mine\n"
    run = place.runs[0].name
    assert (place.project / f"input.{run}").read_text() == "theirs\n"
    assert f"input.{run} (kept apart".encode() in place.told


def test_a_lost_connection_goes_on_where_the_log_was(place: Place) -> None:
    place.script("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.2; done")
    place.faults(follow=["cut 80", "refuse"])
    assert place.run() == 0
    assert place.printed == b"".join(b"line %d\n" % i for i in range(1, 10))
    assert place.told.count(b"connection lost") == 2
    assert b"connected again" in place.told


def test_silence_is_a_lost_connection(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_SECONDS", 4.0)
    place.faults(follow=["hang"])
    assert place.run() == 0
    assert place.printed == b"done\n"
    assert b"not a byte for 4 s" in place.told


def test_a_connection_that_stays_lost_ends_the_command_but_not_the_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY_SECONDS", 2.0)
    place.faults(follow=["refuse"] * 9)
    assert place.run("--then", "destroy") == 125
    run = place.runs[0].name
    assert b"i/o timeout" in place.told
    assert f"attach {run} --results {place.project} --then destroy --stack team-a".encode() in place.told
    assert not place.destroyed()
    place.faults()
    assert place.batch("attach", run, "--results", str(place.project), "--then", "destroy") == 0
    assert place.printed == b"done\n"
    assert (place.project / "out").exists()
    assert place.destroyed()


def test_a_project_that_did_not_arrive_whole_is_not_run_and_leaves_nothing(place: Place) -> None:
    (place.project / "large").write_bytes(os.urandom(3_000_000))
    place.faults(receive=["starve 1000000"], remove=["refuse"])
    assert place.run() == 125
    assert b"Fix: " in place.told
    assert place.runs == []


def test_a_lost_answer_to_launch_does_not_start_the_script_twice(place: Place) -> None:
    place.script(f"echo started >> {place.folder}/starts; sleep 1")
    place.faults(launch=["cut 5"])
    assert place.run() == 0
    assert (place.folder / "starts").read_text() == "started\n"


def test_results_that_were_cut_off_are_fetched_again_and_none_is_half_there(place: Place) -> None:
    place.script("head -c 2000000 /dev/zero > out1; cat input > out2")
    place.faults(send=["cut 1000000"])
    assert place.run() == 0
    assert (place.project / "out1").stat().st_size == 2_000_000
    assert {path.name for path in place.project.iterdir()} == {"input", "main.R", "out1", "out2"}


def test_a_run_whose_pod_ended_is_lost_with_a_status_of_its_own(place: Place) -> None:
    place.script(f"echo before > out; echo last words; echo $PPID > {place.folder}/leader; exec sleep 30")

    def end_the_pod() -> None:
        leader = int((place.folder / "leader").read_text())
        os.killpg(leader, 9)

    with _once_printed(end_the_pod):
        assert place.run("--then", "destroy") == 124
    assert place.printed == b"last words\n"
    assert b"lost" in place.told
    assert (place.project / "out").read_text() == "before\n"
    assert not place.destroyed()


def test_a_run_of_another_boot_or_pod_does_not_live_though_its_number_does(place: Place) -> None:
    place.script("sleep 30")
    _leave_as_soon_as_started(place)
    folder = place.runs[0]
    assert pod_agent._state(folder)["state"] == "running"
    boot, host, process = (folder / "process").read_text().splitlines()
    later = process.replace(pod_agent._began(process), "1")
    for other in (("other", host, process), (boot, "other", process), (boot, host, later)):
        (folder / "process").write_text("\n".join(other))
        assert pod_agent._state(folder)["state"] == "lost", other
    (folder / "process").write_text("\n".join((boot, host, process)))
    assert place.batch("stop", folder.name) == 0


def test_ctrl_c_detaches_and_stop_ends(place: Place) -> None:
    place.script("echo here; sleep 30")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with _once_printed(interrupt):
        assert place.run() == 130
    run = place.runs[0].name
    assert f"attach {run}".encode() in place.told
    assert f"stop {run}".encode() in place.told
    assert place.batch("runs") == 0
    assert b"running" in place.printed
    assert place.batch("remove", run) == 125
    assert b"still running" in place.told
    assert place.batch("stop", run) == 0
    assert place.batch("runs") == 0
    assert b"stopped with 143" in place.printed
    assert place.batch("attach", run, "--results", str(place.project)) == 143
    assert place.batch("stop", run) == 0
    assert b"does not run" in place.told
    assert place.batch("remove", run) == 0
    assert place.runs == []


def test_a_script_that_ignores_the_signal_is_stopped_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = client.AGENT.replace(b"STOP_SECONDS = 10.0", b"STOP_SECONDS = 0.5")
    monkeypatch.setattr(client, "AGENT", text)
    place.script("trap '' TERM; echo here; while true; do sleep 0.1; done")
    with _once_printed(lambda: place.batch("stop", place.runs[0].name)):
        assert place.run() == 137
    assert b"was stopped" in place.told
    assert not pod_agent._alive(place.runs[0])


def test_destroy_comes_after_success_alone(place: Place) -> None:
    place.script("echo partial > out; exit 1")
    assert place.run("--then", "destroy") == 1
    assert (place.project / "out").read_text() == "partial\n"
    assert not place.destroyed()
    assert b"kept" in place.told
    place.script("echo whole > out")
    assert place.run("--then", "destroy") == 0
    assert place.destroyed()


def test_nothing_is_destroyed_while_results_cannot_be_written(place: Place, tmp_path: Path) -> None:
    place.script("mkdir dir; echo 1 > dir/out")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/dir").write_text("a file where a folder is to be")
    assert place.run("--results", str(tmp_path / "results"), "--then", "destroy") == 125
    assert not place.destroyed()
    assert b"cannot be written" in place.told
    assert b" attach " in place.told


def test_nothing_is_destroyed_while_another_run_needs_the_stack(place: Place) -> None:
    place.script("echo here; sleep 30")
    _leave_as_soon_as_started(place)
    first = place.runs[0].name
    place.script("exit 0")
    assert place.run("--then", "destroy") == 125
    assert first.encode() in place.told
    assert not place.destroyed()
    assert place.batch("stop", first) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere", "main.R"], ["'nowhere'", "does not exist", "Fix:"]),
        (["run", "PROJECT/input", "main.R"], ["is a file", "Fix:"]),
        (["run", "PROJECT", "man.R"], ["'man.R'", "main.R", "Fix:"]),
        (["run", "PROJECT", "../analysis/main.R"], ["no script", "Fix:"]),
        (["run", "PROJECT", "main.R", "--results", "PROJECT/input"], ["cannot be written", "Fix: --results"]),
        (["attach", "20260101-000000-abcd"], ["no run '20260101-000000-abcd'", "future-kubernetes runs"]),
        (["remove", "../.."], ["no run '../..'"]),
    ],
)
def test_what_cannot_be_is_said_with_its_fix(place: Place, arguments: list[str], words: list[str]) -> None:
    (place.folder / "home/batch").mkdir()
    assert place.batch(*[argument.replace("PROJECT", str(place.project)) for argument in arguments]) == 125
    for word in words:
        assert word.encode() in place.told
    assert place.runs == []


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "folder"], ["stop"], ["run", "f", "main.R", "--then", "panic"], ["runs", "more"]]
)
def test_usage_error_of_a_run_command_has_exit_status_125(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(arguments) == 125
    assert f"Fix: future-kubernetes {arguments[0]} --help" in capsys.readouterr().err


def test_a_project_larger_than_the_home_is_refused_before_it_is_copied(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = client.AGENT.replace(b"shutil.disk_usage(Path.home()).free", b"5")
    monkeypatch.setattr(client, "AGENT", text)
    assert place.run() == 125
    for word in (b"5 B free", b"homeGiB", b" remove RUN", b".batchignore"):
        assert word in place.told
    assert place.runs == []


def test_a_scheduler_that_does_not_answer_is_described(place: Place) -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    described = {"metadata": {"name": "future-scheduler-1"}, "status": {
        "phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}}  # fmt: skip
    (place.folder / "answer").write_text(json.dumps({"items": [described]}))
    place.faults(space=["refuse"])
    assert place.run("--stack", "team-a") == 125
    for word in (b"i/o timeout", b"ImagePullBackOff", b"pulumi up --stack team-a"):
        assert word in place.told


def test_what_is_left_out_and_what_links_lead_to(place: Place, tmp_path: Path) -> None:
    for path in (
        ".git/config",
        "library/.git/hooks/post-checkout",
        "renv/library/a/b",
        "renv/activate.R",
        ".Rproj.user/x",
        "data/big.csv",
        "tmp/x",
        "a.log",
    ):
        (place.project / path).parent.mkdir(parents=True, exist_ok=True)
        (place.project / path).touch()
    (place.project / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/far").write_text("linked")
    (place.project / "link").symlink_to(tmp_path / "elsewhere")
    (place.project / "loop").symlink_to(place.project)
    (place.project / "nowhere").symlink_to("missing")
    (place.project / "deep").mkdir()
    (place.project / "deep/b.log").touch()
    (place.project / "deep/kept.log").touch()
    (place.project / ".batchignore").write_text("# large\ndata/**/*.csv\n/tmp/\n*.log\n!kept.log\n")
    place.script(
        'find . -type f | sort; find . -type d -name empty; cat link/far; echo " $RENV_CONFIG_AUTOLOADER_ENABLED"'
    )
    assert place.run() == 0
    assert place.printed.decode().split() == [
        "./.batchignore", "./deep/kept.log", "./input", "./link/far", "./main.R", "./renv/activate.R", "./empty",
        "linked", "FALSE",
    ]  # fmt: skip
    assert b"not copied: nowhere" in place.told


def test_an_unreadable_file_is_named_before_anything_is_copied(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = PermissionError(13, "Permission denied", str(place.project / "input"))
    opened: Callable[..., object] = Path.open

    def refused(path: Path, *arguments: object, **named: object) -> object:
        if path.name == "input":
            raise reason
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refused)
    assert place.run() == 125
    assert b"input cannot be read: Permission denied" in place.told
    assert place.runs == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out", tarfile.REGTYPE),
        ("/tmp/out", tarfile.REGTYPE),
        ("a/../../out", tarfile.REGTYPE),
        ("out", tarfile.SYMTYPE),
        ("sub/.GIT/hooks/post-checkout", tarfile.REGTYPE),
    ],
)
def test_nothing_is_unpacked_outside_of_its_folder(tmp_path: Path, name: str, kind: bytes) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc"
        tar.addfile(entry)
    written.seek(0)
    with pytest.raises(pod_files.AgentError):
        pod_files.unpack(written, tmp_path / "inside")
    assert [path.name for path in tmp_path.rglob("*")] == ["inside"]


def test_the_kubeconfig_is_private_and_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(tmp_path, monkeypatch, {"kubeconfig": "secret: text", "namespace": "n", "copyTo": _COPY_TO})
    with stack.opened("team-a") as opened:
        kubeconfig = opened.kubectl.kubeconfig
        assert kubeconfig.read_text() == "secret: text"
        assert stat.S_IMODE(kubeconfig.stat().st_mode) == 0o600
        assert (opened.kubectl.namespace, opened.release) == ("n", "future-a")
        assert opened.destroy[1:] == ("destroy", "--yes", "--stack", "team-a")
    assert not kubeconfig.exists()
    assert (tmp_path / "asked").read_text().split() == [
        "stack", "output", "--json", "--show-secrets", "--stack", "team-a", "--non-interactive",
    ]  # fmt: skip


def test_stack_dev_is_read_from_the_file_that_up_left_without_pulumi_or_the_local_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_STATE", str(tmp_path / "state"))
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho pod-1 Running\n")
    (tmp_path / "kubectl").chmod(0o755)
    outputs = {"kubeconfig": "of-dev", "namespace": "n", "copyTo": _COPY_TO, "password": "drawn", "url": "http://x"}
    LocalStack(str(tmp_path / "kubectl"), "/the/logs", outputs).save()
    assert stat.S_IMODE(LocalStack.path().stat().st_mode) == 0o600
    program = textwrap.dedent("""
        import sys
        from cli.main import main
        status = main(["status"]) or main(["password"])
        assert not {"local", "pulumi", "components"} & sys.modules.keys()
        sys.exit(status)
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line]
    assert ["pod-1", "Running"] in lines
    assert ["password", "[secret]"] in lines
    assert ["logs", "/the/logs"] in lines
    assert lines[-1] == ["drawn"]
    assert "of-dev" not in done.stdout


def test_stack_dev_that_is_not_up_has_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_STATE", str(tmp_path))
    assert main.main(["password"]) == 1
    assert main.main(["runs"]) == 125
    assert capsys.readouterr().err.count("Fix: make up") == 2


_COPY_TO = "kubectl cp MY_FILE $(kubectl get pods --selector app.kubernetes.io/instance=future-a,component=scheduler)"


@pytest.mark.parametrize(
    ("outputs", "missing", "words"),
    [
        ({}, None, ["'team-a' is not up", "Fix: pulumi up --stack team-a"]),
        (None, None, ["no stack named", "pulumi stack ls"]),
        ({}, "kubectl", ["kubectl", "https://kubernetes.io/docs/tasks/tools/"]),
        ({}, "pulumi", ["pulumi", "https://www.pulumi.com/docs/install/"]),
    ],
)
def test_a_stack_that_cannot_be_reached_is_told_with_the_fix(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outputs: dict[str, str] | None,
    missing: str | None,
    words: list[str],
) -> None:
    _pretend(tmp_path, monkeypatch, outputs)
    if missing:
        (tmp_path / missing).unlink()
    with pytest.raises(UserError) as raised, stack.opened("team-a"):
        pass
    for word in words:
        assert word in str(raised.value)


def _pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, str] | None) -> None:
    """A `pulumi` with these outputs and a `kubectl`, and nothing else on PATH."""
    answer = f"echo '{json.dumps(outputs)}'" if outputs is not None else "echo 'no stack named' >&2; exit 255"
    for name, text in (("pulumi", f'echo "$@" > {folder}/asked; {answer}'), ("kubectl", "")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_sizes_are_as_people_read_them() -> None:
    assert [files.in_bytes(size) for size in (0, 999, 1500, 2.5e6, 3e9, 4e12)] == [
        "0 B", "999 B", "1.5 kB", "2.5 MB", "3.0 GB", "4000.0 GB",
    ]  # fmt: skip


@contextmanager
def _once_printed(act: Callable[[], object]) -> Iterator[None]:
    """Does something when the script's first output has been shown."""
    shown = runs._show
    acted: list[bool] = []

    def show(data: bytes) -> None:
        shown(data)
        if data and not acted:
            acted.append(True)
            act()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runs, "_show", show)
        yield
    assert acted


def _leave_as_soon_as_started(place: Place) -> None:
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(client.Client, "follow", leave)
        assert place.run() == 130
