"""The monthly budget: what both clouds are told, and what is refused before anything is created."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit import aws_cloud, google_cloud
from tests.unit.cloud_mocks import refusal_of, run, unchecked

pytestmark = pytest.mark.usefixtures("installed_tools")

EMAIL = "team@example.org"
BUDGET = {"monthlyBudget": 500, "budgetEmail": EMAIL}
REFUSED = {"gke": google_cloud.refused, "eks": aws_cloud.refused}
RUN = {"gke": google_cloud.gke, "eks": aws_cloud.eks}


def denied(reason: str) -> Any:
    def answer(_args: Mapping[str, Any]) -> dict[str, Any]:
        raise PermissionError(reason)

    return answer


def test_budget_on_aws_counts_stacks_tag_and_writes_to_address() -> None:
    budget = aws_cloud.eks(BUDGET).one("budgets/budget:Budget").inputs
    assert (budget["limitAmount"], budget["limitUnit"], budget["timeUnit"]) == ("500", "USD", "MONTHLY")
    assert budget["costFilters"] == [{"name": "TagKeyValue", "values": ["user:stack$team"]}]
    told = [(each["notificationType"], each["threshold"]) for each in budget["notifications"]]
    assert told == [("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100)]
    assert all(each["subscriberEmailAddresses"] == [EMAIL] for each in budget["notifications"])
    said = "\n".join(text for _, text in aws_cloud.eks(BUDGET).said)
    assert "TagKey=stack,Status=Active" in said, "a tag that is not activated counts nothing"


def test_budget_on_google_counts_stacks_label_in_accounts_currency() -> None:
    done = google_cloud.gke(BUDGET)
    budget, channel = done.one("billing/budget:Budget"), done.one("NotificationChannel")
    assert budget.inputs["billingAccount"] == "012345-6789AB-CDEF01"
    assert budget.inputs["amount"] == {"specifiedAmount": {"units": "500"}}, "another currency would be refused"
    assert budget.inputs["budgetFilter"] == {
        "projects": ["projects/123456789"],
        "labels": {"stack": "team"},
        "calendarPeriod": "MONTH",
    }
    assert channel.inputs["labels"] == {"email_address": EMAIL}
    assert len(budget.inputs["allUpdatesRule"]["monitoringNotificationChannels"]) == 1
    assert done.goes_before(budget, channel)
    assert "google-quotas" in budget.provider, "Google refuses a user's login otherwise"


@pytest.mark.parametrize("cloud", ["gke", "eks"])
def test_stack_without_a_budget_asks_and_makes_none(cloud: str) -> None:
    done = RUN[cloud]({})
    assert not [each for each in done.resources if "udget" in each.type]
    assert not [token for token, _, _ in done.asked if "udget" in token or "getBillingAccount" in token]


@pytest.mark.parametrize("cloud", ["gke", "eks"])
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({**BUDGET, "monthlyBudget": 0}, "monthlyBudget is '0'"),
        ({**BUDGET, "monthlyBudget": -5}, "monthlyBudget is '-5'"),
        ({**BUDGET, "monthlyBudget": "500 EUR"}, "from 1 to 999999"),
        ({**BUDGET, "monthlyBudget": 1_000_000}, "from 1 to 999999"),
        ({**BUDGET, "budgetEmail": "team"}, "an e-mail address"),
        ({"monthlyBudget": 500}, "budgetEmail is not set, and monthlyBudget is"),
        ({"budgetEmail": EMAIL}, "pulumi config set monthlyBudget 500"),
    ],
)
def test_wrong_budget_is_refused_with_a_fix(cloud: str, config: dict[str, Any], said: str) -> None:
    message = REFUSED[cloud](config)
    assert said in message
    assert "allowed:" in message
    assert "fix:" in message


@pytest.mark.parametrize("cloud", ["kubeconfig", "local"])
def test_budget_is_refused_where_the_stack_creates_no_cluster(cloud: str) -> None:
    config = {"cloud": cloud, "image": "ghcr.io/o/i@sha256:" + "b" * 64, **BUDGET}
    message = refusal_of(lambda: run(config, {}, lambda *_: {}))
    assert "monthlyBudget" in message
    assert "only where cloud is gke or eks" in message


def test_missing_permission_on_aws_is_named_before_anything_is_made() -> None:
    message = REFUSED["eks"](BUDGET, {"aws:budgets/getBudget:getBudget": denied("AccessDeniedException: no")})
    assert "budgets:ViewBudget and budgets:ModifyBudget" in message
    assert "pulumi config rm monthlyBudget" in message
    busy = aws_cloud.eks(BUDGET, {"aws:budgets/getBudget:getBudget": denied("ThrottlingException")})
    assert "whether you may create a budget" in unchecked(busy)


def test_missing_google_billing_account_or_permission_is_named_before_creation() -> None:
    unbilled = {
        "gcp:organizations/getProject:getProject": lambda _args: {"id": "p", "number": "1", "billingAccount": ""}
    }
    assert "gcloud billing projects link my-project" in REFUSED["gke"](BUDGET, unbilled)
    hidden = {"gcp:organizations/getBillingAccount:getBillingAccount": denied("403 caller lacks billing.accounts.get")}
    message = REFUSED["gke"](BUDGET, hidden)
    assert "roles/billing.costsManager" in message
    assert "billing.accounts.get" in message


def test_google_is_asked_once_for_the_project_if_needed() -> None:
    def asked(config: dict[str, Any]) -> list[str]:
        lookups = google_cloud.gke(config).asked
        return [provider for token, _, provider in lookups if token == "gcp:organizations/getProject:getProject"]

    [provider] = asked({**BUDGET, "buckets": "gs://team-data"})
    assert "google-quotas" in provider, "the API of billing refuses a user's login otherwise"
    [provider] = asked({"buckets": "gs://team-data"})
    assert "google-quotas" not in provider, "it takes a permission that a stack without a budget does not need"
    assert asked({}) == []
