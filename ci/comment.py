"""One comment a stack on a pull request, edited at each push: `python3 ci/comment.py NUMBER FOLDER STACKS`.

FOLDER holds STACK.md for each of the stacks in STACKS, a JSON list of matrix entries, and for stack dev, which every
pull request previews. Standard library only: it runs from the base branch's checkout, with the right to comment and
with nothing of the pull request's code.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MARK = "<!-- future-kubernetes preview of {} -->"
ALWAYS = "dev"
"""The stack of `make up`. It needs no cloud, so each pull request previews it."""

LENGTH = 60_000
"""Characters of a report that are posted; GitHub refuses more than 65,536."""


class PullRequest:
    """A pull request's comments, by GitHub's REST API."""

    def __init__(self, number: int, environment: Mapping[str, str]) -> None:
        repository = f"{environment['GITHUB_API_URL']}/repos/{environment['GITHUB_REPOSITORY']}"
        self._listed = f"{repository}/issues/{number}/comments"
        self._single = f"{repository}/issues/comments"
        self._token = environment["GITHUB_TOKEN"]

    def previews(self) -> dict[str, int]:
        """Return the comments that earlier runs made, their numbers by stack."""
        found: dict[str, int] = {}
        for comment in self._comments():
            marked = re.match(MARK.format(r"([\w.-]+)"), comment.get("body") or "")
            # A person could quote the mark; only what a workflow wrote is edited.
            if marked and comment["user"]["type"] == "Bot":
                found[marked[1]] = comment["id"]
        return found

    def write(self, stack: str, text: str, number: int | None) -> None:
        """Edit the comment of that number, or add one."""
        body = {"body": f"{MARK.format(stack)}\n{text[:LENGTH]}"}
        if number is None:
            self._call("POST", self._listed, body)
        else:
            self._call("PATCH", f"{self._single}/{number}", body)

    def _comments(self) -> Iterator[dict[str, Any]]:
        for page in range(1, 101):
            comments = self._call("GET", f"{self._listed}?per_page=100&page={page}")
            yield from comments
            if len(comments) < 100:
                return

    def _call(self, method: str, url: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 (the API's address, which GitHub sets)
            url,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)


def publish(pull: PullRequest, folder: Path, stacks: Sequence[str], log: str) -> None:
    """Write each stack's report, and replace those of stacks that the change no longer touches."""
    earlier = pull.previews()
    for stack in stacks:
        file = folder / f"{stack}.md"
        text = file.read_text() if file.exists() else f"### Preview of stack `{stack}`\n\nThe preview did not finish.\n"
        pull.write(stack, f"{text}\n[Log]({log})\n", earlier.get(stack))
    for stack in earlier.keys() - set(stacks):
        pull.write(stack, f"### Preview of stack `{stack}`\n\nNot touched by this change any more.\n", earlier[stack])


def main(arguments: Sequence[str]) -> int:
    """Return 0; an error of the API ends in a traceback, which serves as the log."""
    number, folder, entries = arguments
    env = os.environ
    log = f"{env['GITHUB_SERVER_URL']}/{env['GITHUB_REPOSITORY']}/actions/runs/{env['GITHUB_RUN_ID']}"
    stacks = [*(entry["stack"] for entry in json.loads(entries)), ALWAYS]
    publish(PullRequest(int(number), env), Path(folder), stacks, log)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
