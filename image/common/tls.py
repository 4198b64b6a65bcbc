"""Mutual TLS whose only root of trust is the release's pre-shared token.

Both ends derive the same certificate authority from the token and issue themselves a certificate with it. A peer
without the token cannot present one and is refused in the TLS handshake. OpenSSL does all the cryptography (its command
line issues the certificates, Python's ``ssl`` speaks TLS 1.3); this module only derives one Ed25519 key.
broker/README.md explains why stunnel with a pre-shared key is not used.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import ssl
import subprocess
import tempfile
from pathlib import Path

MIN_TOKEN = 32
"""Minimum length of a token, in characters."""

# RFC 8410, section 7: an Ed25519 private key in PKCS #8 is this prefix and the 32 bytes of the seed.
_PKCS8_ED25519 = bytes.fromhex("302e020100300506032b657004220420")

# X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h, for which Python's ssl has no name. A certificate lives as long as
# its process, so its dates mean nothing, and a node whose clock is behind must not refuse it.
_NO_CHECK_TIME = 0x200000


class TokenError(ValueError):
    """The token file is missing or does not hold a valid token."""


def read_token(path: Path) -> bytes:
    """The release's token.

    Raises:
        TokenError: when the file cannot be read or holds fewer than ``MIN_TOKEN`` characters.
    """
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise TokenError(
            f"cannot read the token file {path}: {error.strerror}. "
            "It comes from the release's Secret, key 'token', mounted into the pod"
        ) from error
    if len(token) < MIN_TOKEN:
        raise TokenError(
            f"the token in {path} has {len(token)} characters; it needs at least {MIN_TOKEN}. "
            "Draw one with 'openssl rand -hex 32' and put it in the release's Secret, key 'token'"
        )
    return token


def _openssl(*arguments: str) -> None:
    try:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise TokenError("the program openssl is not in the image; add the package 'openssl'") from None
    except subprocess.CalledProcessError as error:
        raise TokenError(f"openssl {arguments[0]} failed: {error.stderr.strip()}") from error


def _private_key(seed: bytes) -> str:
    """An Ed25519 key in PEM, of 32 random or derived bytes; `openssl genpkey` takes a process for it at each start."""
    key = base64.b64encode(_PKCS8_ED25519 + seed).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n"


def context(token: bytes, *, server: bool) -> ssl.SSLContext:
    """A TLS 1.3 context that accepts exactly the peers that hold ``token``, and proves that this side holds it.

    The authority's key is HMAC-SHA256(token, label) taken as an Ed25519 seed. Keys are on disk only in a folder of mode
    0700 that is deleted before this returns.
    """
    seed = hmac.new(token, b"future-kubernetes certificate authority 1", hashlib.sha256).digest()
    with tempfile.TemporaryDirectory(prefix="future-kubernetes-") as name:
        folder = Path(name)
        authority, key, certificate = folder / "ca.crt", folder / "key", folder / "crt"
        (folder / "ca.key").write_text(_private_key(seed))
        # Without this file, openssl req reads the system's configuration and adds what it finds there.
        (folder / "cnf").write_text("[req]\ndistinguished_name=dn\n[dn]\n")
        issue = ["req", "-config", str(folder / "cnf"), "-x509", "-new", "-days", "36500"]
        _openssl(
            *issue, "-key", str(folder / "ca.key"), "-subj", "/CN=future-kubernetes", "-out", str(authority),
            "-addext", "basicConstraints=critical,CA:TRUE",
        )  # fmt: skip
        key.write_text(_private_key(os.urandom(32)))
        _openssl(
            *issue, "-CA", str(authority), "-CAkey", str(folder / "ca.key"), "-key", str(key),
            "-subj", "/CN=" + ("broker" if server else "worker"), "-out", str(certificate),
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-addext", "extendedKeyUsage=" + ("serverAuth" if server else "clientAuth"),
        )  # fmt: skip
        result = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        result.minimum_version = ssl.TLSVersion.TLSv1_3
        result.check_hostname = False  # the release's own authority has signed it, which is proof enough
        result.verify_mode = ssl.CERT_REQUIRED
        result.verify_flags = ssl.VerifyFlags(result.verify_flags | _NO_CHECK_TIME)
        result.load_verify_locations(authority)
        result.load_cert_chain(certificate, key)
        if server:
            result.num_tickets = 0  # workers keep one connection, so no session is resumed
    return result
