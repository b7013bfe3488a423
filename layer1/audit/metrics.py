"""The audit as Prometheus' text format, for the textfile collector of the node exporter."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from layer1.findings import Finding, Verdict, failed


def metrics(stack: str, findings: Sequence[Finding], now: datetime, took_s: float) -> str:
    """Return the metrics; each row is a set of states, of which one is 1.

    Args:
        stack: the stack's name.
        findings: the rows.
        now: when the audit began.
        took_s: seconds that it took.
    """
    name = _label(stack)
    lines = [
        "# HELP layer1_audit_row A row of the audit: 1 for the verdict that it has, 0 for the others.",
        "# TYPE layer1_audit_row gauge",
    ]
    lines += [
        f'layer1_audit_row{{stack="{name}",subject="{_label(finding.subject)}",id="{_label(finding.id)}",'
        f'verdict="{verdict}"}} {int(finding.verdict == verdict)}'
        for finding in findings
        for verdict in Verdict
    ]
    lines += ["# HELP layer1_audit_rows How many rows have a verdict.", "# TYPE layer1_audit_rows gauge"]
    lines += [
        f'layer1_audit_rows{{stack="{name}",verdict="{verdict}"}} '
        f"{sum(finding.verdict == verdict for finding in findings)}"
        for verdict in Verdict
    ]
    for metric, text, value in (
        ("failed", "Whether something is broken or unknown.", str(int(failed(findings)))),
        ("timestamp_seconds", "When the audit began, in seconds since 1970.", f"{now.timestamp():.0f}"),
        ("duration_seconds", "How long it took.", f"{took_s:.3f}"),
    ):
        lines += [
            f"# HELP layer1_audit_{metric} {text}",
            f"# TYPE layer1_audit_{metric} gauge",
            f'layer1_audit_{metric}{{stack="{name}"}} {value}',
        ]
    return "\n".join(lines) + "\n"


def _label(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
