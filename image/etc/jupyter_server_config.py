"""JupyterLab in the scheduler pod; installed as /etc/jupyter/jupyter_server_config.py.

The password is hashed here, when the server starts: neither it nor its hash is ever in a file of the image, in an
argument or in a variable.
"""

import os
from pathlib import Path

from jupyter_server.auth import passwd

c = get_config()  # noqa: F821

_password = Path(os.environ.get("FUTURE_KUBERNETES_PASSWORD_FILE", "/etc/future-kubernetes/secret/password"))
c.PasswordIdentityProvider.hashed_password = passwd(_password.read_text().strip())
c.PasswordIdentityProvider.password_required = True
c.IdentityProvider.token = ""  # the password is the one way in

c.ServerApp.ip = "*"
c.ServerApp.port = 8787
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.quit_button = False
c.ServerApp.root_dir = str(Path.home())
# By port-forward the page is asked for as localhost, by an ingress under the ingress's name.
c.ServerApp.allow_remote_access = True

# Notebooks are in R. JupyterLab brings a Python kernel, which has none of this project's packages.
c.KernelSpecManager.ensure_native_kernel = False
c.KernelSpecManager.allowed_kernelspecs = {"ir"}
c.MappingKernelManager.default_kernel_name = "ir"
