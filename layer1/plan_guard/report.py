"""What the guard says: as text for people, as Markdown for a pull request, as JSON for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from layer1.findings import Finding, Verdict, as_json
from layer1.model import Os, Role
from layer1.plan_guard.nodes import Fate, Impact
from layer1.plan_guard.redacted import Difference

_WIDTH = 110
_INCOMPLETE = "The engine stopped at an error, so what follows may be only a part of the plan."


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that is said of one plan.

    Attributes:
        stack: the stack's name.
        fates: every host and node.
        findings: what would be lost, allowed or not.
        errors: why the engine stopped, as it said it.
        differences: of each node's Ignition or machine config, by node; redacted.
        allow_all: the command that lets everything pass, empty where nothing is refused.
    """

    stack: str
    fates: Sequence[Fate]
    findings: Sequence[Finding]
    errors: Sequence[str]
    differences: dict[str, Sequence[Difference]]
    allow_all: str

    @property
    def refused(self) -> list[Finding]:
        """What `make up` refuses."""
        return [each for each in self.findings if each.verdict in (Verdict.BROKEN, Verdict.UNKNOWN)]


def means(fate: Fate) -> str:
    """Say what a node's fate means for it and its cluster."""
    if fate.is_host:
        return ""
    if fate.is_board:
        return _BOARD.get(fate.impact, _OTHER[fate.impact])
    if fate.impact == Impact.RESTARTED:
        return f"its domain is made anew around the same disks: {_away(fate)}"
    if fate.impact == Impact.REPROVISIONED:
        return f"its root disk is made anew and what is on it is lost; {_anew(fate)}; data disks stay"
    if fate.impact == Impact.UPDATED and fate.os == Os.TALOS:
        return "its machine config is applied over the API; Talos restarts what needs it"
    return _OTHER[fate.impact]


_OTHER = {
    Impact.UNCHANGED: "",
    Impact.CREATED: "a new node",
    Impact.UPDATED: "nothing restarts",
    Impact.RESTARTED: "it restarts",
    Impact.REPLACED: "what is on it is cut off",
    Impact.REPROVISIONED: "what is on its root disk is lost",
    Impact.ERASED: "what is on the card is lost",
    Impact.REMOVED: "the node goes with its root disk; data disks stay on the host, outside the stack",
    Impact.DATA_LOST: "the node no longer has a data disk that it has now",
    Impact.UNKNOWN: "cannot be judged",
}
_BOARD = {
    Impact.CREATED: "its image file is written; a card is only touched where `device` names one",
    Impact.UPDATED: "its image file is written again for a new card, and a booted board gets its config or "
    "bundle again; nothing on its card is lost",
    Impact.ERASED: "its card is erased and written anew",
    Impact.REMOVED: "its image file goes; the board and its card are left as they are",
}


def _away(fate: Fate) -> str:
    if fate.os == Os.TALOS and fate.role != Role.WORKER:
        return "etcd is without this member until it is back"
    if fate.os == Os.FLATCAR:
        return "this k3s server and its pods are away until it is back"
    return "its pods are away until it is back"


def _anew(fate: Fate) -> str:
    if fate.os == Os.TALOS and fate.role != Role.WORKER:
        return "it leaves etcd, and joins again with an empty disk"
    if fate.os == Os.FLATCAR:
        return "k3s' data on it goes, and Layer 2 has to configure it again"
    return "it joins the cluster again"


def as_text(report: Report) -> str:
    """Return the report for people."""
    lines = [f"plan of stack {report.stack}: {_counts(report.fates)}"]
    for error in report.errors:
        lines += ["", "the engine stopped:", textwrap.indent(error, "  ")]
    if report.errors:
        lines += ["", _INCOMPLETE]
    width = max((len(fate.name) for fate in report.fates), default=0)
    for fate in report.fates:
        lines.append("")
        when = f", step {fate.place}" if fate.place is not None else ""
        kind = " (host)" if fate.is_host else ""
        lines.append(f"{fate.name:<{width}}  {fate.impact.words}{when}{kind}")
        lines += _wrapped("because of ", [str(cause) for cause in fate.causes])
        lines += _wrapped("means      ", [means(fate)])
        lines += [f"    {each.as_text()}" for each in report.differences.get(fate.name, ())]
    lines += _verdict_text(report)
    return "\n".join(lines) + "\n"


def _counts(fates: Sequence[Fate]) -> str:
    counted = [
        (sum(fate.impact == impact and not fate.is_host for fate in fates), impact.words) for impact in Impact
    ]
    return ", ".join(f"{count} {words}" for count, words in counted if count) or "no nodes"


def _wrapped(title: str, texts: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for index, text in enumerate(text for text in texts if text):
        start = "  " + (title if index == 0 else " " * len(title))
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False
        )
    return lines


def _verdict_text(report: Report) -> list[str]:
    lines: list[str] = []
    for finding in report.findings:
        word = "allowed" if finding.verdict == Verdict.WEAKER else "refused"
        lines += ["", f"{word}: {finding.subject}: {finding.what}"]
        lines += _wrapped("because of ", [finding.evidence])
        lines += _wrapped("means      ", [finding.means])
        lines += [f"  {finding.remedy}"] if finding.remedy else []
    if report.allow_all and len(report.refused) > 1:
        lines += ["", f"to allow all of it: {report.allow_all}"]
    if not report.findings and not report.errors:
        lines += ["", "nothing is lost"]
    return lines


def as_markdown(report: Report) -> str:
    """Return the report for a pull request: one table, details folded; the same for the same plan."""
    lines = [f"### Plan of stack `{report.stack}`", "", f"{_counts(report.fates).capitalize()}.", ""]
    for error in report.errors:
        lines += ["**The engine stopped:**", "", *_fence(error), "", _INCOMPLETE, ""]
    lines += ["| Node | What happens | Step | Because of |", "|---|---|---|---|"]
    for fate in report.fates:
        name = f"{_cell(fate.name)} (host)" if fate.is_host else _cell(fate.name)
        step = str(fate.place) if fate.place is not None else ""
        because = "<br>".join(_cell(str(cause)) for cause in fate.causes)
        lines.append(f"| {name} | {fate.impact.words} | {step} | {because} |")
    for finding in report.findings:
        word = "Allowed" if finding.verdict == Verdict.WEAKER else "Refused"
        lines += ["", f"**{word}: {_cell(finding.subject)}: {_cell(finding.what)}.**"]
        lines += [f"That means: {_cell(finding.means)}."]
    if report.allow_all:
        lines += ["", "If all of it is meant:", "", *_fence(report.allow_all)]
    for fate in report.fates:
        lines += _details(fate, report.differences.get(fate.name, ()))
    return "\n".join(lines) + "\n"


def _details(fate: Fate, differences: Sequence[Difference]) -> list[str]:
    said = means(fate)
    if not said and not differences:
        return []
    lines = ["", f"<details><summary>{_cell(fate.name)}: {fate.impact.words}</summary>", ""]
    lines += [f"{_cell(said)}.", ""] if said else []
    labels: dict[str, str] = {}
    shown = [each.as_label(labels) for each in differences]
    return [*lines, *(_fence("\n".join(shown)) if shown else []), "", "</details>"]


def _fence(text: str) -> list[str]:
    """Fence a text with more backticks than are in it."""
    longest, run = 2, 0
    for letter in text:
        run = run + 1 if letter == "`" else 0
        longest = max(longest, run)
    fence = "`" * (longest + 1)
    return [fence, *text.splitlines(), fence]


def _cell(text: str) -> str:
    """Make a text safe within a table and within HTML."""
    plain = " ".join(text.split())
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")


def as_document(report: Report) -> str:
    """Return the report as JSON: the findings' schema, with the nodes and the engine's errors besides."""
    document = json.loads(as_json("guard", report.stack, report.findings))
    document["errors"] = list(report.errors)
    document["nodes"] = [
        {
            "name": fate.name,
            "kind": "host" if fate.is_host else "board" if fate.is_board else "node",
            "impact": fate.impact.words,
            "step": fate.place,
            "causes": [{"text": cause.text, "key": cause.key} for cause in fate.causes],
            "means": means(fate),
            "lost_data": list(fate.lost_data),
            "differences": [each.as_text() for each in report.differences.get(fate.name, ())],
        }
        for fate in report.fates
    ]
    return json.dumps(document, indent=1) + "\n"
