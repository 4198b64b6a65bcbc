#!/usr/bin/env bash
# Preview of stack dev: `bash ci/preview-dev.sh BASE FOLDER`, as root. The stack is made from the commit BASE, on a
# cluster on this machine, so that the preview shows what the checked-out change makes of it. Needs no secret.
set -euo pipefail
base=$1
folder=$2
before=$(mktemp -d)
git worktree add --detach "$before" "$base"
trap 'git worktree remove --force "$before"' EXIT
make -C "$before" up
make .venv/ready-test
uv venv --quiet policy/.venv
uv pip install --quiet --python policy/.venv -r policy/requirements.txt
.venv/bin/python -m ci.preview dev "$folder"
