"""Commands of gcloud on the pages, against the tree that the SDK has of its own commands, and Google's APIs.

No package index has that tree. So the tests of commands run where gcloud is installed, as on GitHub's runners, or where
CLOUDSDK_ROOT_DIR names the folder of an SDK. What a command asks of an answer is held against Google's descriptions of
its APIs, and the lines about a key ring run against a gcloud that keeps one.
"""

from __future__ import annotations

import functools
import json
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cloud_mocks import ROOT
from tests.unit.google_models import Model, field
from tests.unit.page_commands import blocks, calls, on_pages, options


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
