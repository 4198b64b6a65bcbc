#!/bin/sh
# Makes .venv from the lock file: `setup.sh UV-SYNC-OPTION...`. Installs uv, and on Debian Python's venv, where they lack.
set -eu
cache="${FUTURE_KUBERNETES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/future-kubernetes}"
uv_version=0.13.9

python=$(command -v python3 || true)
if [ -z "$python" ] || ! "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Python from Debian"
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3 python3-venv >/dev/null
    python=$(command -v python3)
  fi
  if ! "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: Python 3.11 or later with venv is needed, found: $("$python" --version 2>&1 || echo none). Install it, then run again." >&2
    exit 1
  fi
fi

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  uv="$cache/uv-$uv_version/bin/uv"
  if [ ! -x "$uv" ]; then
    echo "Installing uv $uv_version"
    "$python" -m venv "$cache/uv-$uv_version.new"
    "$cache/uv-$uv_version.new/bin/pip" install --quiet --disable-pip-version-check "uv==$uv_version"
    rm -rf "$cache/uv-$uv_version"
    mv "$cache/uv-$uv_version.new" "$cache/uv-$uv_version"
  fi
fi
echo "Installing the Python packages of uv.lock"
# A virtual environment that is there is kept: asked for a Python by path, uv makes it anew where that path is a shim.
[ -x .venv/bin/python ] || "$uv" venv --quiet --python "$("$python" -c 'import sys; print(sys.executable)')" .venv
UV_PYTHON_DOWNLOADS=never exec "$uv" sync --quiet --frozen --inexact --compile-bytecode "$@"
