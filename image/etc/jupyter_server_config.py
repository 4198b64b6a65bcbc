"""Configures the Jupyter server of the scheduler pod; installed as /etc/jupyter/jupyter_server_config.py.

It is the only door: JupyterLab, RStudio, the live page, and web applications of R sessions are behind its login.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path += ["/usr/local/lib/future-kubernetes/etc", "/usr/local/lib/future-kubernetes"]

import future_kubernetes_kernels
import future_kubernetes_login
import future_kubernetes_memory

c = get_config()  # noqa: F821

_IDE = os.environ.get("FUTURE_KUBERNETES_IDE", "jupyterlab")

c.ServerApp.identity_provider_class = future_kubernetes_login.SecretIdentityProvider
c.IdentityProvider.login_handler_class = future_kubernetes_login.SlowLoginHandler
c.PasswordIdentityProvider.hashed_password = "in the Secret"  # noqa: S105 - not empty: a password is set
c.PasswordIdentityProvider.password_required = True
c.PasswordIdentityProvider.allow_password_change = False
c.IdentityProvider.token = ""  # no login by token, only by password

c.ServerApp.ip = "*"
c.ServerApp.port = 8787
c.ServerApp.port_retries = 0
c.ServerApp.base_url = os.environ.get("FUTURE_KUBERNETES_PATH", "/")
c.ServerApp.open_browser = False
c.ServerApp.quit_button = False
c.ServerApp.root_dir = str(Path.home())
# The Host header is localhost through a port-forward, and the host's name through an Ingress.
c.ServerApp.allow_remote_access = True
# The Ingress ends TLS: its X-Forwarded-Proto makes the login's cookie one that the browser sends only by https.
c.ServerApp.trust_xheaders = True

# Where `/` leads. JupyterLab is at /lab, RStudio at /rstudio/, whichever is first.
c.ServerApp.default_url = "/lab" if _IDE == "jupyterlab" else "/rstudio/"
c.ServerApp.jpserver_extensions.update(
    {
        "future_kubernetes_page": True,  # the live page at /cluster/
        "future_kubernetes_rstudio": True,  # a page where an IDE is missing
        "future_kubernetes_memory": True,  # the pod's memory in JupyterLab
        "jupyterlab": _IDE != "rstudio" and find_spec("jupyterlab") is not None,
        "jupyter_server_proxy": True,
    }
)

c.ServerApp.extra_template_paths = [str(Path(future_kubernetes_login.__file__).with_name("templates"))]
c.ServerApp.jinja_template_vars = {
    "namespace": os.environ.get("FUTURE_KUBERNETES_NAMESPACE", ""),
    "release": os.environ.get("FUTURE_KUBERNETES_RELEASE", ""),
}

# RStudio's server inherits both. The base image's logging.conf says syslog, which no container has: a server that fails
# to start would log nothing (rstudio/rstudio: src/cpp/core/LogOptions.cpp, loggerType).
os.environ["RS_LOGGER_TYPE"] = "stderr"
# Seconds until RStudio Server must answer; a pod has half a core unless more is asked for.
os.environ.setdefault("RSERVER_TIMEOUT", "30")

# A kernel that ends for lack of memory says so in the cell.
c.ServerApp.kernel_websocket_connection_class = future_kubernetes_memory.TellingConnection
c.AsyncIOLoopKernelManager.restarter_class = future_kubernetes_memory.MemoryRestarter
# One that is idle is shut down where the stack asks for it.
c.ServerApp.kernel_manager_class = future_kubernetes_kernels.CullingKernelManager
# Else jupyter-resource-usage looks at all processes once a second, for metrics that are behind the login.
c.ResourceUseDisplay.enable_prometheus_metrics = False

# Notebooks are in R. JupyterLab's own Python kernel has none of this project's packages.
c.KernelSpecManager.ensure_native_kernel = False
c.KernelSpecManager.allowed_kernelspecs = {"ir"}
c.MappingKernelManager.default_kernel_name = "ir"
