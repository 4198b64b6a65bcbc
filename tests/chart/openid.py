"""A small OpenID provider, and a web server behind the proxy, both on loopback."""

import base64
import hashlib
import json
import secrets
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CLIENT_ID = "r"
LONG = secrets.token_urlsafe(4000)
"""A token as large as those of providers that list a user's groups in it."""


def unpadded(data: bytes) -> str:
    """Base64 as in a JSON Web Token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Handler(BaseHTTPRequestHandler):
    """Answers with JSON, text or a redirection, and logs nothing."""

    def log_message(self, *_args: Any) -> None:
        """Stay silent."""

    def answer(self, body: Mapping[str, Any] | str, status: int = 200, **headers: str) -> None:
        """Send a map as JSON, or a text."""
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Server:
    """A web server on a free port of loopback, until the block ends."""

    def __init__(self, handler: type[Handler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Provider:
    """The provider: signs whoever comes in as `claims`, and notes the credentials of its clients."""

    def __init__(self, folder: Path) -> None:
        self.claims: dict[str, Any] = {"email": "ada@example.org", "email_verified": True}
        self.credentials: list[str] = []
        self.redirects: list[str] = []
        self._key = folder / "provider.pem"
        subprocess.run(["openssl", "genrsa", "-out", str(self._key), "2048"], check=True, capture_output=True)
        self._asked: dict[str, str] = {}
        self.server = Server(self._handler())

    def _modulus(self) -> bytes:
        command = ["openssl", "rsa", "-in", str(self._key), "-noout", "-modulus"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return bytes.fromhex(done.stdout.strip().removeprefix("Modulus="))

    def _token(self) -> str:
        now = int(time.time())
        issuer = {"iss": self.server.url, "aud": CLIENT_ID, "sub": "1", "exp": now + 300, "iat": now}
        claims = {**issuer, "nonce": self._asked.get("nonce", ""), **self.claims}
        text = ".".join(unpadded(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "k"}, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        return (
            f"{text}.{unpadded(subprocess.run(command, input=text.encode(), check=True, capture_output=True).stdout)}"
        )

    def _handler(self) -> type[Handler]:
        provider = self

        class Answers(Handler):
            def do_GET(self) -> None:
                url = urllib.parse.urlsplit(self.path)
                if url.path == "/.well-known/openid-configuration":
                    base = provider.server.url
                    self.answer(
                        {
                            "issuer": base,
                            "authorization_endpoint": f"{base}/auth",
                            "token_endpoint": f"{base}/token",
                            "jwks_uri": f"{base}/keys",
                            "id_token_signing_alg_values_supported": ["RS256"],
                            "code_challenge_methods_supported": ["S256"],
                        }
                    )
                elif url.path == "/keys":
                    key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k", "e": "AQAB"}
                    self.answer({"keys": [{**key, "n": unpadded(provider._modulus())}]})
                else:
                    asked = provider._asked = dict(urllib.parse.parse_qsl(url.query))
                    provider.redirects.append(asked["redirect_uri"])
                    back = urllib.parse.urlencode({"code": "c", "state": asked["state"]})
                    self.answer("", 302, Location=f"{asked['redirect_uri']}?{back}")

            def do_POST(self) -> None:
                body = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                basic = self.headers.get("Authorization", "").removeprefix("Basic ")
                provider.credentials.append(base64.b64decode(basic).decode() or body.get("client_secret", ""))
                challenge = unpadded(hashlib.sha256(body["code_verifier"].encode()).digest())
                if challenge != provider._asked["code_challenge"]:
                    self.answer({"error": "invalid_grant"}, 400)
                    return
                self.answer(
                    {"access_token": LONG, "token_type": "Bearer", "expires_in": 1, "id_token": provider._token()}
                )

        return Answers
