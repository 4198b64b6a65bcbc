"""The context in which a cluster component creates its children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pulumi


@dataclass(frozen=True)
class Scope:
    """Prefix of names, parent, provider and labels of a cluster component's children."""

    name: str
    parent: pulumi.Resource
    provider: pulumi.ProviderResource
    labels: Mapping[str, str]

    def options(
        self,
        *,
        depends_on: Sequence[pulumi.Resource] = (),
        ignore_changes: Sequence[str] = (),
        replace_on_changes: Sequence[str] = (),
        timeout: str | None = None,
    ) -> pulumi.ResourceOptions:
        """Options of a child. timeout: of its creation, change and deletion, such as `1h`."""
        return pulumi.ResourceOptions(
            parent=self.parent,
            provider=self.provider,
            depends_on=list(depends_on),
            ignore_changes=list(ignore_changes),
            replace_on_changes=list(replace_on_changes),
            custom_timeouts=pulumi.CustomTimeouts(timeout, timeout, timeout) if timeout else None,
        )

    @property
    def lookup(self) -> pulumi.InvokeOptions:
        """Options of a data source, answered while the program waits."""
        return pulumi.InvokeOptions(provider=self.provider)

    @property
    def lookup_output(self) -> pulumi.InvokeOutputOptions:
        """Options of a data source whose arguments or answer are known only during the update."""
        return pulumi.InvokeOutputOptions(provider=self.provider)

    def within(self, provider: pulumi.ProviderResource) -> Scope:
        """The same scope with another provider, such as that of the Kubernetes cluster."""
        return replace(self, provider=provider)
