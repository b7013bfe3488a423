"""Resource options for children: never the caller's own, which would re-parent them and leak aliases."""

from __future__ import annotations

from typing import Any

import pulumi


def child_of(parent: pulumi.Resource, **extra: Any) -> pulumi.ResourceOptions:  # noqa: ANN401
    """Return options for a child of `parent`, with whatever this one child needs besides."""
    return pulumi.ResourceOptions(parent=parent, **extra)
