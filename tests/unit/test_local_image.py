"""The image of stack dev: a store that has lost it is no lasting error."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import UserError
from local import image


def test_image_that_the_store_lost_is_rebuilt_by_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_CACHE", str(tmp_path))
    request = image.ImageRequest()
    stamp = image._stamp(request)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()
    assert image.build(request).endswith(request.key()), "nothing is built while the stamp is there"

    def lost(*_arguments: object, **_options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 125, "", "image not known")

    monkeypatch.setattr(image, "_buildah", lost)
    node: Any = SimpleNamespace()
    with pytest.raises(UserError, match="image not known"):
        image.push(node, request)
    assert not stamp.exists()


def test_programs_of_the_base_come_first_and_change_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_CACHE", str(tmp_path))
    asked: list[str] = []

    def buildah(arguments: Sequence[str], binds: dict[Path, str], stdin: str) -> subprocess.CompletedProcess[str]:
        [folder] = binds
        assert (folder / "0").read_text() == "#!/bin/sh\n"
        assert (folder / "0").stat().st_mode & 0o111
        asked.extend([*arguments, stdin])
        return subprocess.CompletedProcess([], len(asked) > 20, "", "no space left")

    monkeypatch.setattr(image, "_buildah", buildah)
    programs = (("/usr/bin/rserver", "#!/bin/sh\n"),)
    tag = image._with_programs("localhost/base:1", programs)
    assert tag in asked
    assert tag != image._with_programs("localhost/base:1", (*programs, ("/usr/bin/other", "")))
    assert "FROM localhost/base:1\nCOPY 0 /usr/bin/rserver" in asked
    assert image.ImageRequest("rstudio").key() != image.ImageRequest("rstudio", base_programs=programs).key()
    asked += [""] * 20
    with pytest.raises(UserError, match="no space left"):
        image._with_programs("localhost/base:1", programs)


def test_only_images_used_last_stay_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUTURE_KUBERNETES_CACHE", str(tmp_path))
    monkeypatch.setattr("local.debian_rootfs.ensure", lambda _root: tmp_path / "image-base-1.tar")
    removed: list[str] = []

    def buildah(arguments: Sequence[str], **_options: object) -> subprocess.CompletedProcess[str]:
        removed.extend(each for each in arguments[1:] if arguments[0] == "rmi" and each != "--prune")
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(image, "_buildah", buildah)
    monkeypatch.setattr(image, "_build_layers", lambda *_arguments: None)
    requests = [image.ImageRequest(r_packages=(f"p{number}",)) for number in range(image._KEPT_IMAGES + 1)]
    tags = []
    for age, request in enumerate(requests[:-1]):
        tags.append(image.build(request))
        os.utime(image._stamp(request), (1000 + age, 1000 + age))
    assert removed == []
    assert image.build(requests[0]) == tags[0], "used again, so the second is now the one of the longest ago"
    image.build(requests[-1])
    assert removed == [tags[1]]
    assert not image._stamp(requests[1]).exists()
    assert image._stamp(requests[0]).exists()
