"""Stack dev as `future-kubernetes up` left it: what the other commands need to reach it.

`up` writes one private file into the cluster's folder. The commands read only that file, so that they need neither
Pulumi nor the code that runs Kubernetes on this machine.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.paths import local_cluster, state_dir
from common.private_files import write_private


@dataclass(frozen=True)
class LocalStack:
    """Stack dev. kubectl: path of the program. logs: folder of the node's logs. outputs: with secrets."""

    kubectl: str
    logs: str
    outputs: dict[str, Any]

    @staticmethod
    def path() -> Path:
        """The file; `down` deletes it with the cluster's folder."""
        return state_dir(local_cluster()) / "stack.json"

    def save(self) -> None:
        """Writes the file."""
        write_private(self.path(), json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls) -> LocalStack:
        """The stack. Raises UserError where it is not up."""
        try:
            return cls(**json.loads(cls.path().read_text()))
        except FileNotFoundError:
            raise UserError(
                "stack 'dev' is not up: Kubernetes does not run on this machine.\n"
                "Fix: make up, or name another stack: --stack NAME (pulumi stack ls)"
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{cls.path()} cannot be read: {error}\nFix: make up") from None
