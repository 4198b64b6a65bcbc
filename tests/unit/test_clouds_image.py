"""The build of the image on both clouds."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.unit.both_clouds import EKS, Cloud, cloud, own_release
from tests.unit.cloud_mocks import (
    ROOT,
    Refused,
    is_secret,
)

__all__ = ["cloud"]


ANEW: dict[str, Any] = {"never-asked": lambda _args: {}}
"""Answers with which a run is not one that was run before."""


@pytest.fixture
def docker(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose Docker listens at the path that is given, once something does; Docker's own folder is empty."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("components.image.DOCKER_SOCKET", str(tmp_path / "docker.sock"))
    return tmp_path / "docker.sock"


def test_update_without_docker_is_refused_before_anything_is_created(cloud: Cloud, docker: Path) -> None:
    with pytest.raises(Refused) as caught:
        cloud.run({}, ANEW)
    assert caught.value.nothing_was_made
    assert f"Docker does not run ({docker}: No such file or directory)" in str(caught.value)
    assert "pulumi config set image" in str(caught.value)


def test_docker_without_permission_is_refused_with_the_group_to_join(
    cloud: Cloud, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_self: socket.socket, _address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(Refused, match="sudo usermod -aG docker"):
        cloud.run({}, ANEW)
    assert not docker.exists()


@pytest.mark.parametrize("way", ["socket", "DOCKER_HOST", "DOCKER_CONTEXT", "context", "builder", "image", "preview"])
def test_update_continues_where_a_builder_exists_or_none_is_needed(
    cloud: Cloud, docker: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    config = {"image": f"r.example.org/r@sha256:{'1' * 64}"} if way == "image" else {}
    with socket.socket(socket.AF_UNIX) as listener:
        if way == "socket":
            listener.bind(str(docker))
            listener.listen()
        elif way.startswith("DOCKER"):
            monkeypatch.setenv(way, "elsewhere")
        elif way in ("context", "builder"):
            kept = docker.parent / "config" / {"context": "contexts/meta", "builder": "buildx/instances"}[way] / "one"
            kept.mkdir(parents=True)
        assert cloud.run(config, ANEW, preview=way == "preview").all("v3:Release")


def test_image_is_pushed_to_stacks_repository_except_in_previews(
    cloud: Cloud,
) -> None:
    wanted = {"rPackages": "sf data.table", "aptPackages": "libgdal-dev", "baseImage": "rocker/rstudio:4.5.1"}
    image = cloud.run({**wanted, "ide": "jupyterlab"}).one("docker-build:index:Image")
    assert image.inputs["push"] is True
    assert image.inputs["buildOnPreview"] is False, "a preview would run a pull request's Dockerfile"
    assert image.inputs["platforms"] == ["linux/amd64"]
    assert image.inputs["tags"] == [f"{cloud.repository}:future-team"]
    cache = f"{cloud.repository}:buildcache"
    assert [entry["registry"]["ref"] for entry in image.inputs["cacheFrom"]] == [cache]
    (to,) = [entry["registry"] for entry in image.inputs["cacheTo"]]
    assert (to["ref"], to["mode"]) == (cache, "max")
    assert to["ignoreError"] is True, "an image that is built and pushed would count as failed"
    # ECR refuses a cache manifest of another kind.
    assert (to["imageManifest"], to["ociMediaTypes"]) == ((True, True) if cloud is EKS else (False, False))
    assert image.inputs["buildArgs"]["R_PACKAGES"] == "data.table sf", "another order would be another image"
    assert image.inputs["buildArgs"]["APT_PACKAGES"] == "libgdal-dev"
    assert image.inputs["buildArgs"]["BASE_IMAGE"] == "rocker/rstudio:4.5.1"
    assert image.inputs["buildArgs"]["IDE"] == "jupyterlab"
    declared = (ROOT / "image" / "Dockerfile").read_text()
    assert all(f"ARG {name}" in declared for name in image.inputs["buildArgs"]), "Docker ignores an unknown one"
    (registry,) = image.inputs["registries"]
    assert registry["address"] == cloud.repository.split("/")[0]


def test_r_repository_is_a_build_secret_and_not_an_argument(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_SECRET_KEYS", '["future-kubernetes:rRepository"]')
    url = "https://user:geheim@packages.example.org/cran"
    image = cloud.run({"rPackages": "ours", "rRepository": url}).one("docker-build:index:Image")
    assert image.inputs["secrets"] == {"r_repository": url}
    assert "secrets" in image.secrets or is_secret(image.sent["secrets"]["r_repository"])
    assert "geheim" not in str(image.inputs["buildArgs"])
    assert "secrets" not in cloud.team().one("docker-build:index:Image").inputs


def test_release_pins_the_built_image_by_digest(cloud: Cloud) -> None:
    assert "@sha256:" in own_release(cloud.run()).inputs["values"]["image"]


def test_image_is_built_beside_the_cluster_and_before_the_release(cloud: Cloud) -> None:
    done = cloud.team()
    image = done.one("docker-build:index:Image")
    assert not done.goes_before(image, done.one(cloud.cluster))
    waiting = [resource for resource in done.resources if done.goes_before(resource, image)]
    assert [resource.type for resource in waiting] == ["kubernetes:helm.sh/v3:Release"]
