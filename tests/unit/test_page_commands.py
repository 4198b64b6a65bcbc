"""Commands on the pages of both clouds, against what the clouds publish of their own command lines and APIs.

AWS's commands are made from the descriptions that botocore has, and test_aws_models.py checks that each exists. gcloud
has a tree of its commands in the SDK's own folder, which no package index has. So those tests run where gcloud is
installed, as on GitHub's runners, or where CLOUDSDK_ROOT_DIR names the folder of an SDK. The fields that a command asks
for are held against Google's descriptions of its APIs. The lines about a key ring run against a gcloud that keeps one.
"""

from __future__ import annotations

import functools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jmespath
import pytest
from botocore import xform_name
from botocore.model import Shape

from tests.unit.aws_cloud import eks
from tests.unit.cloud_mocks import ROOT
from tests.unit.google_models import Model, field
from tests.unit.test_aws_models import OF_THE_CLI, operation, service

PAGES = (
    "gke.md",
    "eks.md",
    "ci-preview.md",
    "data.md",
    "operations.md",
    "single-sign-on.md",
    "decisions/0021-cost-and-time-of-a-worker.md",
)


def blocks(name: str, heading: str = "") -> list[str]:
    """The shell blocks of a page, or of one of its sections, with continued lines joined."""
    text = (ROOT / "docs" / name).read_text()
    if heading:
        text = re.split(rf"^#+ {re.escape(heading)}", text, flags=re.MULTILINE)[1].partition("\n## ")[0]
    return [re.sub(r"\\\n\s*", "", block) for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def calls(program: str, text: str) -> Iterator[list[str]]:
    """The words of each call of a program in shell text, without its name."""
    for line in text.splitlines():
        # The command of a quoted substitution counts too.
        bare = re.sub(r'"\$\(([^"]*)\)"', r" ; \1 ; ", line)
        words = shlex.shlex(bare, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        call: list[str] | None = None
        for word in words:
            if word == program:
                call = []
            elif call is not None and not set(word) <= set("();<>|&"):
                call.append(word)
            elif call is not None:
                yield call
                call = None
        if call is not None:
            yield call


def on_pages(program: str) -> list[list[str]]:
    """Every call of a program on the pages."""
    return [call for page in PAGES for block in blocks(page) for call in calls(program, block)]


def options(call: list[str]) -> dict[str, str]:
    """The options of a call with their values; several words of one value are joined."""
    found: dict[str, str] = {}
    last = ""
    for word in call:
        if word.startswith("--"):
            last, _, value = word.partition("=")
            found[last] = value
        elif last:
            found[last] = f"{found[last]} {word}".strip()
    return found


def test_calls_are_found_in_any_place_of_a_line() -> None:
    text = (
        'a describe x --k=1 || a create "y z" | grep "^(A|B)," # a comment\n'
        'if a get; then b --v "$(a read --q w)"; fi\na list | xargs -n 1 a end\n'
    )
    assert list(calls("a", text)) == [
        ["describe", "x", "--k=1"],
        ["create", "y z"],
        ["get"],
        ["read", "--q", "w"],
        ["list"],
        ["end"],
    ]
    assert options(["read", "x", "--q", "v", "w", "--k=1", "--flag"]) == {"--q": "v w", "--k": "1", "--flag": ""}


# gcloud: its own tree of commands


def sdk() -> Path | None:
    """The folder of the Google Cloud SDK on this machine."""
    given = os.environ.get("CLOUDSDK_ROOT_DIR")
    program = shutil.which("gcloud")
    places = [Path(given)] if given else []
    places += [Path(program).resolve().parent.parent, Path("/usr/lib/google-cloud-sdk")] if program else []
    return next((place for place in places if (place / "data/cli/gcloud_completions.py").is_file()), None)


@functools.cache
def tree() -> Mapping[str, Any]:
    """The commands of gcloud, each with its own commands and flags, as the SDK completes them."""
    place = sdk()
    if place is None:
        pytest.skip("no Google Cloud SDK here, whose commands these are held against")
    found: Mapping[str, Any] = runpy.run_path(str(place / "data/cli/gcloud_completions.py"))[
        "STATIC_COMPLETION_CLI_TREE"
    ]
    return found


def faults(call: list[str]) -> list[str]:
    """Words of a call that gcloud does not know: a command that is none, or a flag that it does not have."""
    node, flags, path = tree(), dict(tree()["flags"]), ["gcloud"]
    for word in call:
        if word.startswith("-"):
            break
        if word not in node["commands"]:
            break
        node = node["commands"][word]
        flags |= node["flags"]
        path.append(word)
    name = " ".join(path)
    wrong = [f"{name}: no command" for _ in range(1) if node["commands"]]
    for flag, value in options(call).items():
        known = flags.get(flag)
        if known is None:
            wrong.append(f"{name} {flag}: no flag")
        elif isinstance(known, list) and value and value not in known:
            wrong.append(f"{name} {flag}={value}: none of {known}")
    return wrong


def in_messages() -> list[list[str]]:
    """The calls of gcloud in the program's messages and outputs."""
    texts = [path.read_text() for path in sorted((ROOT / "components" / "clouds" / "google").glob("*.py"))]
    joined = re.sub(r"[\"']\s*\n\s*f?[\"']", "", "\n".join(texts))
    found = re.findall(r"\bgcloud ([a-z][^\"'`,|)\n]*)", joined)
    return [re.sub(r"\{[^}]*\}", "NAME", each).split() for each in found]


def test_every_command_of_gcloud_on_the_pages_exists() -> None:
    found = on_pages("gcloud")
    assert len(found) >= 45
    assert [fault for call in found for fault in faults(call)] == []


def test_every_command_of_gcloud_in_a_message_exists() -> None:
    found = [call for call in in_messages() if len(call) > 1 and call[0] not in ("has", "for")]
    assert len(found) >= 12
    assert [fault for call in found for fault in faults(call)] == []


def test_a_command_that_gcloud_does_not_have_is_noticed() -> None:
    for wrong in (
        ["kms", "rings", "list"],
        ["kms", "keyrings", "create", "pulumi", "--region=us-west1"],
        ["container", "clusters"],
        ["kms", "keys", "create", "stacks", "--purpose=secrets"],
    ):
        assert len(faults(wrong)) == 1, wrong


# gcloud: what its commands ask of an answer

ANSWERED = {
    "compute regions describe": Model("compute.v1", "Region", {}),
    "compute project-info describe": Model("compute.v1", "Project", {}),
    "compute machine-types list": Model("compute.v1", "MachineType", {}),
    "compute snapshots list": Model("compute.v1", "Snapshot", {}),
    "compute instances list": Model("compute.v1", "Instance", {}),
    "compute disks list": Model("compute.v1", "Disk", {}),
    "compute networks list": Model("compute.v1", "Network", {}),
    "container get-server-config": Model("container.v1", "ServerConfig", {}),
    "container clusters list": Model("container.v1", "Cluster", {}),
    "filestore instances list": Model("file.v1", "Instance", {}),
    "artifacts repositories list": Model("artifactregistry.v1", "Repository", {}),
    "kms keys versions list": Model("cloudkms.v1", "CryptoKeyVersion", {}),
    "iam roles describe": Model("iam.v1", "Role", {}),
}
"""The answer that a command prints, by Google's description. A new one that filters or formats needs a line here."""


def asked(given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The fields that a command's options name, each with the value that it must have, if any."""
    for option in ("--filter", "--format", "--flatten", "--sort-by"):
        value = given.get(option, "")
        if option == "--filter":
            for name, operator, wanted in re.findall(r"([A-Za-z][\w.]*)(!?[=~:])(\S+)", value):
                yield name, wanted if operator == "=" else ""
        elif option == "--format":
            inner = re.search(r"\(([^)]*)\)", value)
            yield from ((name, "") for name in (inner[1].split(",") if inner else []))
        elif value:
            yield value.lstrip("~").removesuffix("[]"), ""


def unknown_fields(call: list[str]) -> list[str]:
    """Fields that a call asks for and Google's answer does not have."""
    given = options(call)
    if not list(asked(given)):
        return []
    command = " ".join(list_of_commands(call))
    wrong = []
    for name, wanted in asked(given):
        # gcloud takes `quotas.metric` for the field of each quota, once it is flattened or printed.
        flattened = given.get("--flatten", "").removesuffix("[]")
        path = name.replace(f"{flattened}.", f"{flattened}[].", 1) if flattened else name
        found, _ = field(ANSWERED[command], path)
        if found is None:
            wrong.append(f"{command}: no field {name}")
        elif wanted and "enum" in found and wanted not in found["enum"]:
            wrong.append(f"{command}: {name} is never {wanted}")
    return wrong


def list_of_commands(call: list[str]) -> list[str]:
    """The names of groups and of the command: what stands before options and names of resources."""
    for length in range(len(call), 0, -1):
        if " ".join(call[:length]) in ANSWERED:
            return call[:length]
    return [word for word in call if not word.startswith("-")]


def test_fields_that_gcloud_is_asked_for_are_in_googles_answers() -> None:
    found = [call for call in on_pages("gcloud") if list(asked(options(call)))]
    assert len(found) >= 12
    assert [fault for call in found for fault in unknown_fields(call)] == []


def test_a_field_that_no_answer_has_is_noticed() -> None:
    for wrong in (
        ["container", "clusters", "list", "--filter=labels.stack=a"],
        ["compute", "regions", "describe", "us-west1", "--flatten=quotas[]", "--format=csv(quotas.name)"],
        ["kms", "keys", "versions", "list", "--filter=state=LIVE"],
        ["compute", "snapshots", "list", "--sort-by=~createTime"],
    ):
        assert len(unknown_fields(wrong)) == 1, wrong


# gcloud: a key ring that is there already

STAND_IN = r"""#!/usr/bin/env python3
# The key rings of one project, with the rules of https://cloud.google.com/kms/docs/resource-hierarchy: a name is
# taken once, a destroyed version stays, and a key without a primary version encrypts nothing.
import json, pathlib, sys
state = pathlib.Path(__file__).parent / "state.json"
rings = json.loads(state.read_text())
words = [word for word in sys.argv[1:] if not word.startswith("-")]
given = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
def stop(reason):
    sys.exit("ERROR: (gcloud." + ".".join(words[:-1]) + ") " + reason)
def kept():
    state.write_text(json.dumps(rings))
    sys.exit(0)
group, verb = " ".join(words[:2]), words[2]
if words[:3] == ["kms", "keys", "versions"]:
    verb = words[3]
    key = rings.get(given.get("keyring", "pulumi"), {}).get(given.get("key", "stacks"))
    if verb == "destroy":
        ring, name, version = words[4].split("/")[5], words[4].split("/")[7], words[4].split("/")[9]
        rings[ring][name]["versions"][int(version) - 1] = "DESTROY_SCHEDULED"
        kept()
    if key is None:
        stop("NOT_FOUND")
    if verb == "create":
        key["versions"].append("ENABLED")
        if "primary" in given:
            key["primary"] = len(key["versions"])
        kept()
    for at, found in enumerate(key["versions"], 1):
        if given["filter"] == "state=" + found:
            print("projects/p/locations/us-west1/keyRings/pulumi/cryptoKeys/stacks/cryptoKeyVersions/" + str(at))
    sys.exit(0)
if group == "kms keyrings":
    if verb == "describe":
        sys.exit(0 if words[3] in rings else stop("NOT_FOUND: KeyRing " + words[3]))
    if words[3] in rings:
        stop("ALREADY_EXISTS: KeyRing " + words[3])
    rings[words[3]] = {}
    kept()
if group == "kms keys":
    ring = rings.get(given["keyring"])
    if ring is None:
        stop("NOT_FOUND: KeyRing")
    if verb == "describe":
        sys.exit(0 if words[3] in ring else stop("NOT_FOUND: CryptoKey " + words[3]))
    if words[3] in ring:
        stop("ALREADY_EXISTS: CryptoKey " + words[3])
    ring[words[3]] = {"versions": ["ENABLED"], "primary": 1}
    kept()
"""


@pytest.fixture
def gcloud(tmp_path: Path) -> Path:
    """A folder of programs: gcloud keeps key rings in state.json, and nothing else does anything."""
    for name, text in (("gcloud", STAND_IN), ("pulumi", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(gcloud: Path, text: str) -> None:
    """Runs lines of the page that are about keys, each of which must succeed."""
    environment = {**os.environ, "PATH": f"{gcloud}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euo", "pipefail", "-c", text], env=environment, check=True, capture_output=True)


def about_keys(heading: str) -> str:
    """The lines of a section that are about key rings and keys."""
    (block,) = [block for block in blocks("gke.md", heading) if "gcloud kms" in block]
    kept = [line for line in block.splitlines() if not re.match(r"gcloud (services|storage|projects)|pulumi", line)]
    return "\n".join(kept)


NOTHING: dict[str, Any] = {}
RING: dict[str, Any] = {"pulumi": {}}
OF_A_STACK: dict[str, Any] = {"pulumi": {"stacks": {"versions": ["ENABLED"], "primary": 1}}}
AFTER_A_STACK: dict[str, Any] = {"pulumi": {"stacks": {"versions": ["DESTROYED", "DESTROY_SCHEDULED"], "primary": 2}}}


@pytest.mark.parametrize("before", [NOTHING, RING, OF_A_STACK, AFTER_A_STACK])
def test_page_ends_with_a_key_that_encrypts_whatever_was_there(gcloud: Path, before: dict[str, Any]) -> None:
    (gcloud / "state.json").write_text(json.dumps(before))
    run(gcloud, about_keys("4. Where Pulumi keeps its state"))
    key = json.loads((gcloud / "state.json").read_text())["pulumi"]["stacks"]
    assert key["versions"][key["primary"] - 1] == "ENABLED"


def test_last_lines_of_the_page_leave_no_version_that_decrypts(gcloud: Path) -> None:
    (gcloud / "state.json").write_text("{}")
    for _ in range(2):
        run(gcloud, about_keys("4. Where Pulumi keeps its state"))
    run(gcloud, about_keys("8. Tear down to an empty account"))
    key = json.loads((gcloud / "state.json").read_text())["pulumi"]["stacks"]
    assert key["versions"] == ["DESTROY_SCHEDULED"] * 2


# AWS: the values of options, and what is read of an answer


def aws_calls() -> list[tuple[str, str, dict[str, str]]]:
    """Service, operation and options of each call of the AWS CLI that is an operation."""
    found = []
    for call in on_pages("aws"):
        if f"aws {call[0]} {call[1]}" not in OF_THE_CLI:
            by_command = {xform_name(each, "-"): each for each in service(call[0]).operation_names}
            found.append((call[0], by_command[call[1]], options(call)))
    return found


OF_EVERY_COMMAND = {"region", "query", "output", "profile", "max-items"}


def wrong_values(name: str, operation_name: str, given: Mapping[str, str]) -> list[str]:
    """Values that the operation does not take, and members that it requires and the command does not give."""
    shape: Any = operation(name, operation_name).input_shape
    members = {xform_name(member, "-"): each for member, each in shape.members.items()} if shape else {}
    wrong = [
        f"{operation_name} without --{xform_name(each, '-')}"
        for each in (shape.required_members if shape else ())
        if f"--{xform_name(each, '-')}" not in given
    ]
    for option, value in given.items():
        known = members.get(option[2:])
        if known is not None and not value.startswith("$"):
            wrong += list(unfit(operation_name + " " + option, known, value))
    return wrong


def unfit(where: str, shape: Shape, value: str) -> Iterator[str]:
    """Faults of a value, in the CLI's short form of structures (`Name=tag:stack,Values=eks-mine`)."""
    described: Any = shape
    if described.type_name == "list":
        entries = value.split(" ")
        for entry in entries:
            yield from unfit(where, described.member, entry)
    elif described.type_name == "structure":
        for key, text in (pair.partition("=")[::2] for pair in value.split(",")):
            if key not in described.members:
                yield f"{where}: no member {key}"
            else:
                yield from unfit(f"{where} {key}", described.members[key], text)
    elif described.type_name == "string" and described.enum and value not in described.enum:
        yield f"{where}: {value} is none of {described.enum}"
    elif described.type_name in ("integer", "long", "double", "float"):
        number = float(value)
        if not described.metadata.get("min", number) <= number <= described.metadata.get("max", number):
            yield f"{where}: {value} is out of bounds"


def test_values_in_commands_are_those_that_aws_takes() -> None:
    found = aws_calls()
    assert len(found) >= 25
    assert [fault for call in found for fault in wrong_values(*call)] == []


def test_a_value_that_aws_does_not_take_is_noticed() -> None:
    for name, operation_name, given in (
        ("ce", "UpdateCostAllocationTagsStatus", {"--cost-allocation-tags-status": "TagKey=stack,Status=On"}),
        ("ce", "UpdateCostAllocationTagsStatus", {"--cost-allocation-tags-status": "Tag=stack,Status=Active"}),
        ("eks", "DescribeClusterVersions", {"--version-status": "STANDARD"}),
        ("kms", "ScheduleKeyDeletion", {"--pending-window-in-days": "7"}),
        ("kms", "ScheduleKeyDeletion", {"--key-id": "$KEY_ID", "--pending-window-in-days": "700"}),
    ):
        assert len(wrong_values(name, operation_name, given)) == 1, given


def sample(shape: Any, name: str = "", depth: int = 0) -> Any:
    """An answer with every member that AWS describes."""
    if shape.type_name == "structure":
        return {key: sample(each, key, depth + 1) for key, each in shape.members.items()} if depth < 7 else {}
    if shape.type_name == "list":
        return [sample(shape.member, name, depth + 1)]
    if shape.type_name == "map":
        return {"key": sample(shape.value, name, depth + 1)}
    numbers = {"integer": 1, "long": 1, "double": 1.0, "float": 1.0, "boolean": True}
    return numbers.get(shape.type_name, f"future-eks-mine-{name}")


def holes(value: Any) -> bool:
    """True where a query found nothing in a part of a full answer."""
    if isinstance(value, dict):
        return any(holes(entry) for entry in value.values())
    if isinstance(value, list):
        return not value or any(holes(entry) for entry in value)
    return value is None


def queries() -> list[tuple[str, str, str]]:
    """Service, operation and query of each command on the pages that reads a part of its answer."""
    return [(name, verb, given["--query"]) for name, verb, given in aws_calls() if "--query" in given]


def test_queries_read_what_aws_answers() -> None:
    found = queries()
    assert len(found) >= 10
    for name, operation_name, query in found:
        answer = sample(operation(name, operation_name).output_shape)
        assert not holes(jmespath.search(query, answer)), f"{operation_name}: {query}"


def test_a_query_for_what_aws_does_not_answer_is_noticed() -> None:
    answer = sample(operation("ec2", "DescribeSnapshots").output_shape)
    assert holes(jmespath.search("sort_by(Snapshots,&StartTime)[].[SnapshotId,Size]", answer))
    assert holes(jmespath.search("Snapshot[].SnapshotId", answer))


@pytest.mark.usefixtures("installed_tools")
def test_cost_tags_that_the_page_activates_are_on_every_resource() -> None:
    (given,) = [given for _, verb, given in aws_calls() if verb == "UpdateCostAllocationTagsStatus"]
    activated = set(re.findall(r"TagKey=(\w+)", " ".join(given.values())))
    provider = eks({"labels": "team=statistics"}).one("pulumi:providers:aws", "-aws")
    assert "stack" in activated, "the budget counts by it"
    assert activated <= set(json.loads(provider.inputs["defaultTags"])["tags"])
