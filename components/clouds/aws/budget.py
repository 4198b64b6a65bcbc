"""The monthly budget of a stack, which writes to a person and stops nothing."""

from __future__ import annotations

import re

import pulumi
import pulumi_aws as aws

from components.clouds.aws.location import Location
from components.clouds.aws.settings import EksSettings
from components.clouds.checks import CloudError, Refusal, found_or_none, problem, say_unchecked
from components.clouds.labels import common_labels
from components.clouds.scope import Scope

ALERTS = (("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100))
"""Percentages of the budget that are notified. AWS allows five for each budget."""

PERMISSIONS = "budgets:ViewBudget and budgets:ModifyBudget, which docs/eks.md lists"

ACTIVATE = "aws ce update-cost-allocation-tags-status --cost-allocation-tags-status TagKey=stack,Status=Active"


def check_budget(settings: EksSettings, lookup: pulumi.InvokeOptions) -> None:
    """Raises CloudError where AWS does not show budgets to the caller, who then may not create one.

    The lookup is of a budget that does not exist: AWS refuses it before it looks.
    """
    if not settings.monthly_budget:
        return
    name = f"{settings.name}-permission-check"
    try:
        found_or_none(
            lambda: aws.budgets.get_budget(name=name, opts=lookup), r"(?i)NotFound|couldn't find|not found|empty result"
        )
    except Refusal as error:
        if not re.search(r"AccessDenied|not authorized", str(error), re.IGNORECASE):
            say_unchecked("whether you may create a budget", error)
            return
        raise CloudError(
            problem(
                f"monthlyBudget is {settings.monthly_budget}, and AWS does not show you budgets",
                f"a user with the permissions {PERMISSIONS}",
                "ask for them, or pulumi config rm monthlyBudget && pulumi config rm budgetEmail",
            )
        ) from error


def create_budget(scope: Scope, settings: EksSettings, location: Location) -> None:
    """A budget of the costs with the stack's tag, where `monthlyBudget` is set."""
    if not settings.monthly_budget or not settings.budget_email:
        return
    stack = common_labels(settings)["stack"]
    pulumi.log.info(
        f"the budget counts what has the tag stack={stack}, once a person has activated that tag: {ACTIVATE}"
    )
    aws.budgets.Budget(
        f"{scope.name}-budget",
        budget_type="COST",
        time_unit="MONTHLY",
        limit_amount=str(settings.monthly_budget),
        limit_unit="CNY" if location.partition == "aws-cn" else "USD",
        cost_filters=[aws.budgets.BudgetCostFilterArgs(name="TagKeyValue", values=[f"user:stack${stack}"])],
        notifications=[
            aws.budgets.BudgetNotificationArgs(
                comparison_operator="GREATER_THAN",
                notification_type=kind,
                threshold=percent,
                threshold_type="PERCENTAGE",
                subscriber_email_addresses=[settings.budget_email],
            )
            for kind, percent in ALERTS
        ],
        opts=scope.options(),
    )
