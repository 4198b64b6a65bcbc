#!/usr/bin/env bash
# Run a command as root with this user's PATH, and hand the cache back: `bash ci/as-root.sh COMMAND...`.
# The local cluster needs root; what saves the cache is the workflow's own user.
set -euo pipefail
: "${FUTURE_KUBERNETES_CACHE:?is not set: the folder that the workflow caches}"
mkdir -p "$FUTURE_KUBERNETES_CACHE"
status=0
sudo --preserve-env=FUTURE_KUBERNETES_CACHE,CI,GITHUB_STEP_SUMMARY env PATH="$PATH" "$@" || status=$?
sudo chown -R "$(id -u):$(id -g)" "$FUTURE_KUBERNETES_CACHE" .
exit "$status"
