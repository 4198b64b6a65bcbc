"""The workers of the article, with a scheduler pod: Kubernetes objects, and the plan that connects them."""

from __future__ import annotations

PORT = 11562

# The article's worker with its chart's command: base R retries with a delay that grows by half each time.
LINE = (
    "Rscript --default-packages=datasets,utils,grDevices,graphics,stats,methods -e 'parallel:::.workRSOCK()' "
    f"MASTER=stock PORT={PORT} OUT=/dev/null SETUPTIMEOUT=2592000 TIMEOUT=2592000 XDR=TRUE"
)
PLAN = f"""
cl <- parallelly::makeClusterPSOCK(I({{n}}), manual = TRUE, quiet = TRUE, port = {PORT})
plan(cluster, workers = cl)
"""


def objects(namespace: str, image: str, workers: int) -> list[dict[str, object]]:
    """Return an idle scheduler pod for `kubectl exec`, its Service, and the article's workers."""

    def deployment(name: str, replicas: int, command: list[str]) -> dict[str, object]:
        container = {
            "name": "r",
            "image": image,
            "command": command,
            "resources": {"requests": {"cpu": "5m", "memory": "64Mi"}},
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "containers": [container],
                        "automountServiceAccountToken": False,
                        "terminationGracePeriodSeconds": 0,
                    },
                },
            },
        }

    service: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "stock", "namespace": namespace},
        "spec": {"clusterIP": "None", "selector": {"app": "stock"}, "ports": [{"port": PORT}]},
    }
    return [
        service,
        deployment("stock", 1, ["sleep", "infinity"]),
        deployment("stock-worker", workers, ["sh", "-c", f"exec {LINE}"]),
    ]
