"""Stand-in for the Pulumi engine, used only for stack dev and only where the Pulumi CLI cannot be installed.

`collect` runs the unmodified program under the SDK's mocks and collects what it registers; `apply` creates that by
kubectl and Helm. It is not Pulumi: no preview, no diff, and no resource other than those of stack dev.
"""
