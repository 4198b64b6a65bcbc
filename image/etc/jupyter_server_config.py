"""Configures JupyterLab in the scheduler pod; installed as /etc/jupyter/jupyter_server_config.py.

The password is read from the mounted Secret at each login, so that a change takes effect without a restart, which would
end the R sessions. It is never in a file of the image, in an argument or in a variable.
"""

import hmac
import os
import sys
from pathlib import Path

from jupyter_server.auth.identity import PasswordIdentityProvider

c = get_config()  # noqa: F821

_PASSWORD = Path(os.environ.get("FUTURE_KUBERNETES_PASSWORD_FILE", "/etc/future-kubernetes/secret/password"))


class SecretIdentityProvider(PasswordIdentityProvider):
    """Accepts the current password of the Secret; an empty one accepts nobody."""

    def passwd_check(self, password):
        """True if this is the password."""
        now = _PASSWORD.read_text().strip().encode()
        return bool(now) and hmac.compare_digest(password.encode(), now)


c.ServerApp.identity_provider_class = SecretIdentityProvider
c.PasswordIdentityProvider.hashed_password = "in the Secret"  # noqa: S105 - not empty: a password is set
c.PasswordIdentityProvider.password_required = True
c.PasswordIdentityProvider.allow_password_change = False
c.IdentityProvider.token = ""  # no login by token, only by password

c.ServerApp.ip = "*"
c.ServerApp.port = 8787
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.quit_button = False
c.ServerApp.root_dir = str(Path.home())
# The Host header is localhost through a port-forward, and the host's name through an Ingress.
c.ServerApp.allow_remote_access = True

# Notebooks are in R. JupyterLab's own Python kernel has none of this project's packages.
c.KernelSpecManager.ensure_native_kernel = False
c.KernelSpecManager.allowed_kernelspecs = {"ir"}
c.MappingKernelManager.default_kernel_name = "ir"

# The broker's live page at /cluster/, behind the same login.
sys.path.append("/usr/local/lib/future-kubernetes/etc")
c.ServerApp.jpserver_extensions.update({"future_kubernetes_page": True})
