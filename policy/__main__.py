"""The policy pack: `pulumi preview --policy-pack policy`. The rules are in `rules.py`."""

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
)
from rules import RULES, Rule


def policy(rule: Rule) -> ResourceValidationPolicy:
    """A rule as a Pulumi policy."""

    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        for reason in rule.check(args.resource_type, args.props):
            report(reason)

    return ResourceValidationPolicy(
        name=rule.name,
        description=rule.description,
        validate=validate,
        enforcement_level=EnforcementLevel.MANDATORY if rule.mandatory else EnforcementLevel.ADVISORY,
    )


PolicyPack(name="future-kubernetes", policies=[policy(rule) for rule in RULES])
