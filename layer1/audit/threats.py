"""The mission's threats as rows: what the detail rows add up to, never more."""

from __future__ import annotations

from collections.abc import Sequence

from layer1.audit.rows import ROWS, THREATS, Threat
from layer1.findings import Finding, Verdict

_WORST_FIRST = (Verdict.BROKEN, Verdict.UNKNOWN, Verdict.WEAKER, Verdict.HOLDS)


def summary(stack: str, details: Sequence[Finding]) -> list[Finding]:
    """Return one row a threat, as bad as the worst of its detail rows on any node; none is unknown."""
    return [_summary(stack, threat, details) for threat in Threat]


def _summary(stack: str, threat: Threat, details: Sequence[Finding]) -> Finding:
    about = {row.id for row in ROWS if threat in row.threats}
    mine = [finding for finding in details if finding.id in about]
    by_verdict = {
        verdict: [finding for finding in mine if finding.verdict == verdict] for verdict in _WORST_FIRST
    }
    worst = next((verdict for verdict in _WORST_FIRST if by_verdict[verdict]), Verdict.UNKNOWN)
    parts = [f"{len(by_verdict[Verdict.HOLDS])} of {len(mine)} rows hold"]
    parts += [
        f"{verdict}: {', '.join(f'{each.subject} {each.id}' for each in found)}"
        for verdict, found in by_verdict.items()
        if found and verdict != Verdict.HOLDS
    ]
    keys = list(dict.fromkeys(each.key for each in by_verdict[Verdict.WEAKER] if each.key))
    return Finding(
        id=f"threat.{threat}",
        subject=f"stack {stack}",
        what=THREATS[threat],
        verdict=worst,
        evidence="; ".join(parts) if mine else "no row says anything of it",
        means="; ".join(dict.fromkeys(each.means for each in by_verdict[worst]))
        if worst in (Verdict.BROKEN, Verdict.WEAKER)
        else "",
        remedy="" if worst == Verdict.HOLDS else "see the rows named here, below",
        key=", ".join(keys) if worst == Verdict.WEAKER else None,
    )
