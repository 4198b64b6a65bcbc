"""The monthly budget of a stack, which writes to a person and stops nothing."""

from __future__ import annotations

import re

import pulumi
import pulumi_gcp as gcp

from components.clouds.checks import CloudError, Refusal, problem, refusals
from components.clouds.google.api import EXPIRED, LOGIN
from components.clouds.google.location import Project
from components.clouds.google.settings import GkeSettings
from components.clouds.scope import Scope

ALERTS = (("CURRENT_SPEND", 0.8), ("CURRENT_SPEND", 1.0), ("FORECASTED_SPEND", 1.0))
"""Shares of the budget that are notified."""

ROLE = "roles/billing.costsManager"
MAX_NAME = 60


def check_budget(settings: GkeSettings, account: str, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError where the project has no billing account, or the caller may not see that account.

    Only those who may see it can create a budget in it. account: the ID of the project's billing account.
    """
    if not settings.monthly_budget:
        return
    name = settings.project
    given = f"monthlyBudget is {settings.monthly_budget}"
    without = "pulumi config rm monthlyBudget && pulumi config rm budgetEmail"
    if not account:
        raise CloudError(
            problem(
                f"{given}, and project {name} has no billing account",
                "a project with one: gcloud billing accounts list",
                f"gcloud billing projects link {name} --billing-account=ACCOUNT, or {without}",
            )
        )
    try:
        with refusals():
            gcp.organizations.get_billing_account(billing_account=account, opts=lookup)
    except Refusal as error:
        reason = " ".join(str(error).split())
        if re.search(EXPIRED, reason, re.IGNORECASE):
            words = f"{given}, and Google does not accept your login ({reason[:200]})"
            raise CloudError(problem(words, "a login that has not expired", LOGIN)) from error
        raise CloudError(
            problem(
                f"{given}, and Google does not show you billing account {account} ({reason[:200]})",
                f"a user with {ROLE} on the billing account, and a project with billingbudgets.googleapis.com, "
                "cloudbilling.googleapis.com and monitoring.googleapis.com enabled",
                f"gcloud billing accounts add-iam-policy-binding {account} --member=user:YOU --role={ROLE} (its "
                f"administrator can), or {without}",
            )
        ) from error


def create_budget(scope: Scope, settings: GkeSettings, project: Project) -> None:
    """A budget of the costs with the stack's label, where `monthlyBudget` is set.

    scope: with a provider whose project pays for the requests, which Google refuses a user's login otherwise.
    """
    if not settings.monthly_budget or not settings.budget_email:
        return
    channel = gcp.monitoring.NotificationChannel(
        f"{scope.name}-budget",
        project=settings.project,
        display_name=f"Budget of {scope.name}",
        type="email",
        labels={"email_address": settings.budget_email},
        user_labels=dict(scope.labels),
        opts=scope.options(),
    )
    gcp.billing.Budget(
        f"{scope.name}-budget",
        billing_account=project.billing_account,
        display_name=scope.name[:MAX_NAME],
        # Without a currency it is that of the billing account.
        amount=gcp.billing.BudgetAmountArgs(
            specified_amount=gcp.billing.BudgetAmountSpecifiedAmountArgs(units=str(settings.monthly_budget))
        ),
        budget_filter=gcp.billing.BudgetBudgetFilterArgs(
            projects=[f"projects/{project.number}"],
            labels={"stack": scope.labels["stack"]},
            calendar_period="MONTH",
        ),
        threshold_rules=[
            gcp.billing.BudgetThresholdRuleArgs(spend_basis=basis, threshold_percent=share) for basis, share in ALERTS
        ],
        all_updates_rule=gcp.billing.BudgetAllUpdatesRuleArgs(monitoring_notification_channels=[channel.id]),
        opts=scope.options(),
    )
