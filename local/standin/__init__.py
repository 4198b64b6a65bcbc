"""Stand-in for the Pulumi engine, used only for stack dev and only where the Pulumi CLI cannot be installed.

`collect` runs the unmodified program under the SDK's mocks and collects its resources; `apply` creates them by kubectl
and Helm. The stand-in has no preview, no diff, and no resource types other than those of stack dev.
"""
