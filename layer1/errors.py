"""The errors of Layer 1: each says what happened, why, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class Layer1Error(Exception):
    """Base of every error that a user may see; its text is the whole message."""


class ConfigError(Layer1Error):
    """One or more keys of the stack's configuration are wrong.

    Attributes:
        problems: (full key, what is wrong and what would be right), in the order of the file.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"the stack's configuration has {count} problem{'s' if count > 1 else ''}:"
        super().__init__("\n".join([head, *(f"  {key}: {text}" for key, text in self.problems)]))


class ImageError(Layer1Error):
    """An image or another artefact could not be fetched, verified or pinned."""


class RenderError(Layer1Error):
    """A text for the guest or for libvirt could not be rendered or did not pass its check."""


class ToolError(Layer1Error):
    """A program that Layer 1 runs is missing or failed."""


class ToolTimeoutError(ToolError):
    """A program did not end in time."""


class NodeError(Layer1Error):
    """A node did not come up as its plan says."""


class HostError(Layer1Error):
    """A libvirt host refused, or is not as Layer 1 needs it."""
