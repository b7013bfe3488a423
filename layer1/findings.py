"""What doctor, audit and plan guard find: one kind of row, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

SCHEMA_VERSION = 1
"""Of the JSON; additions keep the number, anything that breaks a reader changes it."""
_WIDTH = 110


class Verdict(StrEnum):
    """How something stands. Only `holds` counts as holding."""

    HOLDS = "holds"
    WEAKER = "weaker by choice"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One row.

    Attributes:
        id: its stable name, such as `svirt.label`.
        subject: what it is about: a host, a node, or the stack.
        what: what was looked at, in a few words.
        verdict: how it stands.
        evidence: what was seen, and where; never a secret.
        means: what breaks or is lost, for all but `holds`.
        remedy: the command or step that mends it, for all but `holds`.
        key: the stack's key that chose the weaker wall, for `weaker by choice` alone.
    """

    id: str
    subject: str
    what: str
    verdict: Verdict
    evidence: str
    means: str = ""
    remedy: str = ""
    key: str | None = None


def failed(findings: Iterable[Finding]) -> bool:
    """Say whether a command with these findings fails: something is broken or could not be learned."""
    return any(finding.verdict in (Verdict.BROKEN, Verdict.UNKNOWN) for finding in findings)


def as_json(kind: str, stack: str | None, findings: Sequence[Finding]) -> str:
    """Return the findings as JSON of a versioned schema.

    Args:
        kind: the command, such as `audit`.
        stack: the stack's name, None where the command is about no stack.
        findings: the rows, in the order of the table.
    """
    counts = {str(verdict): sum(f.verdict == verdict for f in findings) for verdict in Verdict}
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "stack": stack,
        "counts": counts,
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(document, indent=1) + "\n"


def as_table(findings: Sequence[Finding]) -> str:
    """Return the findings as text: one block a subject, one line a row, more where something is not well."""
    lines: list[str] = []
    for subject in dict.fromkeys(finding.subject for finding in findings):
        lines.append(subject)
        mine = [finding for finding in findings if finding.subject == subject]
        width = max(len(finding.verdict) for finding in mine)
        for finding in mine:
            lines.append(f"  {finding.verdict:<{width}}  {finding.what}")
            lines.extend(_more(finding, width + 4))
    counted = (f"{sum(f.verdict == verdict for f in findings)} {verdict}" for verdict in Verdict)
    return "\n".join([*lines, ", ".join(counted)]) + "\n"


def _more(finding: Finding, indent: int) -> list[str]:
    said = [finding.evidence]
    if finding.verdict != Verdict.HOLDS:
        key = f"chosen by {finding.key}" if finding.key else ""
        said += [finding.means, finding.remedy, key]
    return [
        line
        for text in said
        if text
        for part in text.splitlines()
        for line in textwrap.wrap(
            part, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2)
        )
    ]
