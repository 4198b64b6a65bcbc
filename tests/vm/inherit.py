"""Copies this machine's access to package registries into the virtual machine, by the clients' own configuration.

Names of variables and files are fixed; their content is never shown. A service on this machine's loopback has another
address inside.
"""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

HOST_LOOPBACK = "10.0.2.2"  # qemu's user-mode network
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
VARIABLES = (
    *_PROXIES,
    *(name.upper() for name in _PROXIES),
    "GOFLAGS",
    "GONOPROXY",
    "GONOSUMDB",
    "GOPRIVATE",
    "GOPROXY",
    "GOSUMDB",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_HTTP_TIMEOUT",
    "UV_INDEX_URL",
    "UV_NATIVE_TLS",
)
# These name a file with certificates, which is copied too.
CERTIFICATE_VARIABLES = ("CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
# Debian's folder for added certificates, which become part of the root image.
CERTIFICATES = Path("/usr/local/share/ca-certificates")
_SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_FILES = ("etc/pip.conf", "root/.config/pip/pip.conf", "root/.config/uv/uv.toml", "root/.config/go/env")
_APT_KEYS = re.compile(r"^Acquire::(?:https?::|ftp::|Check-|Retries)")
_LOOPBACK = re.compile(r"(?<=//)(?P<login>[^/@\s]*@)?(?:localhost|127(?:\.\d+){3}|\[::1\])(?=[:/\s\"']|$)")


def rewritten(text: str) -> str:
    """Return the text with this machine's loopback in URLs replaced by its address inside."""
    return _LOOPBACK.sub(lambda found: f"{found['login'] or ''}{HOST_LOOPBACK}", text)


def environment(outside: Mapping[str, str], extra: Mapping[str, str]) -> str:
    """Return /etc/environment of the virtual machine."""
    taken = {name: rewritten(outside[name]) for name in (*VARIABLES, *CERTIFICATE_VARIABLES) if outside.get(name)}
    return "".join(f'{name}="{value}"\n' for name, value in {**taken, **extra}.items())


def apt_settings(dump: str) -> str:
    """Return the lines of `apt-config dump` that configure the access to archives."""
    lines = [line for line in dump.splitlines() if _APT_KEYS.match(line) and not line.endswith(' "";')]
    return rewritten("".join(f"{line}\n" for line in lines))


def hosts(text: str, own_name: str) -> str:
    """Return the added entries of /etc/hosts."""
    kept = []
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        added = [name for name in names if name not in ("localhost", own_name) and not name.startswith("ip6-")]
        if added and not address.startswith(("127.0.1.", "fe00:", "ff0")):
            loopback = address.startswith("127.") or address == "::1"
            kept.append(f"{HOST_LOOPBACK if loopback else address} {' '.join(added)}\n")
    return "".join(kept)


def files(extra_environment: Mapping[str, str]) -> dict[str, bytes]:
    """Return every file for the virtual machine, by its path there without the first slash."""
    found: dict[str, bytes] = {"etc/environment": environment(os.environ, extra_environment).encode()}
    home = str(Path.home()).lstrip("/")
    for name in _FILES:
        source = Path("/", name.replace("root/", f"{home}/", 1) if name.startswith("root/") else name)
        if source.is_file():
            found[name] = rewritten(source.read_text()).encode()
    for variable in CERTIFICATE_VARIABLES:
        bundle = Path(os.environ.get(variable) or "/")
        if bundle.is_file() and str(bundle) != _SYSTEM_BUNDLE:
            found[str(bundle).lstrip("/")] = bundle.read_bytes()
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    found["etc/apt/apt.conf.d/90outside"] = apt_settings(dump.stdout).encode()
    found["root/hosts.outside"] = hosts(Path("/etc/hosts").read_text(), socket.gethostname()).encode()
    return found


def archive(content: Mapping[str, bytes]) -> bytes:
    """Return the files as a tar archive. In a home folder only root may read them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o600 if name.startswith("root/") else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


# Run inside, with the archive on standard input.
UNPACK = "chmod 700 /root && tar -x -C / && cat /root/hosts.outside >>/etc/hosts && rm /root/hosts.outside"
