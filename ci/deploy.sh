#!/usr/bin/env bash
# Update of one stack: `bash ci/deploy.sh STACK`. The policy pack is held against it again, since main may have moved.
set -euo pipefail
stack=$1
export PULUMI_SKIP_UPDATE_CHECK=true PULUMI_OPTION_SKIP_PLUGIN_PRE_INSTALL=true
if ! said=$(pulumi stack select "$stack" --non-interactive 2>&1); then
  # An example's file has no stack behind it, and a first `up` is a person's decision.
  if [[ $said == *"no stack named"* ]]; then
    echo "::notice::the backend has no stack $stack: nothing to deploy. Fix, if there should be one: pulumi stack init $stack"
    exit 0
  fi
  echo "$said" >&2
  exit 1
fi
pulumi up --stack "$stack" --yes --non-interactive --suppress-outputs --policy-pack policy
