"""The audit: whether the walls stand on the running machines, read live and not from the state."""

from layer1.audit.run import Outputs, run

__all__ = ["Outputs", "run"]
