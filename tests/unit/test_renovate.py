"""Renovate's config: the base of the image is found, and kept, with its digest."""

from __future__ import annotations

import json
import re

import pytest

from tests.unit.cloud_mocks import ROOT

CONFIG = json.loads((ROOT / "renovate.json").read_text())
PROXY, MANAGER = CONFIG["customManagers"]
PATTERN = re.compile(MANAGER["matchStrings"][0].replace("(?<", "(?P<"))
"""Python writes named groups with a P; the rest of the pattern means the same in JavaScript."""
DIGEST = "sha256:" + "1" * 64


def replaced(name: str, value: str, digest: str) -> str:
    """The text that Renovate writes, by the few parts of Handlebars that the template has."""
    text = str(MANAGER["autoReplaceStringTemplate"])
    text = re.sub(r"\{\{#if newDigest\}\}(.*?)\{\{/if\}\}", lambda part: part[1] if digest else "", text)
    for key, known in (("depName", name), ("newValue", value), ("newDigest", digest)):
        text = text.replace(f"{{{{{{{key}}}}}}}", known)
    return text


@pytest.mark.parametrize(
    ("value", "name", "tag", "digest"),
    [
        ("rocker/rstudio:4.6.1", "rocker/rstudio", "4.6.1", None),
        (f"rocker/rstudio:4.6.1@{DIGEST}", "rocker/rstudio", "4.6.1", DIGEST),
        (f"'registry.example.org:5000/r/base:1.0-x@{DIGEST}'", "registry.example.org:5000/r/base", "1.0-x", DIGEST),
    ],
)
def test_base_image_of_a_stack_is_found_with_its_parts(value: str, name: str, tag: str, digest: str | None) -> None:
    found = PATTERN.search(f"config:\n  future-kubernetes:baseImage: {value}\n  future-kubernetes:ide: both\n")
    assert found
    assert (found["depName"], found["currentValue"], found["currentDigest"]) == (name, tag, digest)
    assert found[0].endswith(value)


def test_written_base_image_is_found_again() -> None:
    again = PATTERN.fullmatch(replaced("rocker/rstudio", "4.6.2", DIGEST))
    assert again
    assert (again["currentValue"], again["currentDigest"]) == ("4.6.2", DIGEST)
    assert replaced("rocker/rstudio", "4.6.2", "").endswith("baseImage: rocker/rstudio:4.6.2")


def test_pattern_of_files_has_each_stack_and_not_the_project() -> None:
    (pattern,) = MANAGER["managerFilePatterns"]
    assert pattern[0] == pattern[-1] == "/", "without slashes it would be a glob"
    stacks = [path.name for path in ROOT.glob("Pulumi.*.yaml")]
    assert len(stacks) >= 4
    assert all(re.search(pattern.strip("/"), name) for name in stacks)
    assert not re.search(pattern.strip("/"), "Pulumi.yaml")


def test_image_of_the_proxy_is_found_in_the_charts_schema() -> None:
    (file,) = PROXY["managerFilePatterns"]
    found = re.search(PROXY["matchStrings"][0].replace("(?<", "(?P<"), (ROOT / file).read_text())
    assert found
    assert found["depName"] == "quay.io/oauth2-proxy/oauth2-proxy"
    module = re.search(r"oauth2-proxy/oauth2-proxy/v7 (v\S+)", (ROOT / "tests/chart/oauth2-proxy/go.mod").read_text())
    assert module
    assert found["currentValue"] == module[1], "the chart's tests run another version"


def test_dockerfile_has_its_base_where_renovate_reads_it() -> None:
    """Renovate follows an ARG before FROM (its manager `dockerfile`), and adds the digest there (docker:pinDigests)."""
    lines = [line for line in (ROOT / "image/Dockerfile").read_text().splitlines() if line and line[0] != "#"]
    assert re.fullmatch(r"ARG BASE_IMAGE=docker\.io/rocker/rstudio:[0-9.]+(@sha256:[0-9a-f]{64})?", lines[0])
    assert lines[1] == "FROM ${BASE_IMAGE}"
    assert "docker:pinDigests" in CONFIG["extends"]
