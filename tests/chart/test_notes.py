"""The notes that `helm install` prints: how to connect, to read the password, and to diagnose a fault."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

Install = Callable[[Mapping[str, Any]], str]


@pytest.fixture
def notes(install: Install) -> Install:
    def run(values: Mapping[str, Any]) -> str:
        return install(values).partition("\nNOTES:\n")[2]

    return run


def test_notes_give_exact_port_forward_and_password_command(notes: Install) -> None:
    text = notes({})
    assert "kubectl --namespace team port-forward service/lab-future-kubernetes-scheduler 8787:8787\n" in text
    assert "http://localhost:8787" in text
    assert (
        "kubectl --namespace team get secret r-login --output go-template='{{.data.password | base64decode}}'\n" in text
    )


def test_notes_give_the_commands_that_diagnose(notes: Install) -> None:
    text = notes({})
    assert "kubectl --namespace team get pods --selector app.kubernetes.io/instance=lab" in text
    assert "kubectl --namespace team get events" in text
    assert "kubectl --namespace team logs deployment/lab-future-kubernetes-scheduler\n" in text
    assert "kubectl --namespace team logs deployment/lab-future-kubernetes-worker" in text
    assert "helm test lab --namespace team || kubectl --namespace team logs pod/lab-future-kubernetes-test\n" in text


def test_notes_name_the_ide_and_its_login(notes: Install) -> None:
    assert notes({}).startswith("RStudio Server and JupyterLab with 2 R workers: release lab in namespace team.\n")
    assert "JupyterLab is at /lab." in notes({})
    rstudio = notes({"ide": "rstudio"})
    assert rstudio.startswith("RStudio Server with 2 R workers")
    assert "asks only for the password" in rstudio
    assert "JupyterLab" not in rstudio
    jupyterlab = notes({"ide": "jupyterlab", "worker": {"replicas": 1, "maxReplicas": 4}})
    assert jupyterlab.startswith("JupyterLab with 1 R worker (up to 4): release lab")
    assert "asks only for the password" in jupyterlab
    assert "RStudio" not in jupyterlab


def test_notes_with_a_host_give_address_and_diagnosis_command(notes: Install) -> None:
    text = notes({"host": "r.example.org", "ingress": {"tlsSecret": "r-tls"}})
    assert "     https://r.example.org\n" in text
    assert "get ingress/lab-future-kubernetes-scheduler secret/r-tls\n" in text
    below = notes({"host": "r.example.org", "ingress": {"path": "/team/r/"}, "ide": "both"})
    assert "  https://r.example.org/team/r\n" in below
    assert "JupyterLab is at /team/r/lab." in below
    assert "http://localhost:8787/team/r in the browser" in notes({"ingress": {"path": "/team/r/"}})
    assert "get ingress/lab-future-kubernetes-scheduler\n" in notes({"host": "r.example.org"})
    assert "https://" not in notes({})


def test_notes_without_workers_say_how_to_start_them(notes: Install) -> None:
    assert "plan(cluster, manual = TRUE, quiet = TRUE)" in notes({})
    elastic = notes({"worker": {"replicas": 0, "maxReplicas": 40}})
    assert "plan(kubernetes, workers = 40)" in elastic
    assert "plan(cluster" not in elastic
    assert "deployment/lab-future-kubernetes-worker\n\n2. Open" not in elastic
    never = notes({"worker": {"replicas": 0}})
    assert "--set worker.maxReplicas=4" in never
    assert "plan(" not in never


def test_notes_describe_the_end_of_files_and_of_idle_workers(notes: Install) -> None:
    assert "outlive the pod, but not `helm uninstall`" in notes({})
    assert "deleted with the scheduler's pod" in notes({"scheduler": {"homeGiB": 0}})
    assert "after 30 minutes" in notes({"idleMinutes": 30})
    assert "for good 30 hours after" in notes({"ttlHours": 30})
    assert "Outside of Mon 08:00-09:00 UTC workers are scaled to 0" in notes({"workHours": "Mon 08:00-09:00 UTC"})
    assert "minutes without" not in notes({})
