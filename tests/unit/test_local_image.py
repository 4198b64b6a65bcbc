"""The image of stack dev: a store that has lost it is no lasting error."""

from __future__ import annotations

import subprocess
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
