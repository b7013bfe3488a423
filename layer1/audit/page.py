"""The audit as one page that needs nothing else: no script, no font, no picture from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape

from layer1.audit.drawing import css_class, drawing
from layer1.findings import Finding, Verdict
from layer1.model import StackConfig

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2126;--soft:#5b6670;--line:#d5dae0;--panel:#f6f8fa;
--holds:#1a7f37;--weaker:#9a6700;--broken:#cf222e;--unknown:#57606a}
@media(prefers-color-scheme:dark){:root{--paper:#0f1318;--ink:#e4e9ee;--soft:#9aa5b1;--line:#333c46;
--panel:#171d24;--holds:#4ac26b;--weaker:#e0a93a;--broken:#ff7b72;--unknown:#9aa5b1}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:24px 20px 60px;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:22px;margin:0}h2{font-size:17px;margin:32px 0 8px}
p.sub{color:var(--soft);margin:2px 0 16px}
.counts{display:flex;gap:10px;flex-wrap:wrap;margin:0 0 20px}
.counts b{font-size:20px;display:block}
.counts div{border:1px solid var(--line);background:var(--panel);border-radius:6px;
padding:6px 14px;min-width:120px}
svg{width:100%;max-width:640px;display:block;font:13px system-ui,sans-serif}
svg text{fill:currentColor}svg .home{fill:var(--panel);stroke:var(--line)}
svg .title{fill:var(--ink);font-weight:600}svg .core{fill:var(--ink);font-weight:600;text-anchor:middle}
svg .wall{fill:var(--paper);stroke:currentColor;stroke-width:2}svg .verdict{text-anchor:end}
svg .weaker .wall{stroke-dasharray:9 5}svg .broken .wall{stroke-width:4;stroke-dasharray:2 4}
svg .unknown .wall{stroke-dasharray:2 6}
.holds{color:var(--holds)}.weaker{color:var(--weaker)}.broken{color:var(--broken)}.unknown{color:var(--unknown)}
table{border-collapse:collapse;width:100%}
td,th{border-top:1px solid var(--line);padding:7px 10px 7px 0;vertical-align:top;text-align:left}
th{font-weight:600;color:var(--soft);border:0}
td.v{white-space:nowrap;font-weight:600;width:130px}td.w{width:32%}
td code{font:12px/1.45 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
td div{margin-top:3px}td .id{color:var(--soft);font-size:12px}
@media(max-width:700px){td.w{width:auto}td,th{display:block;border:0;padding:2px 0}
tr{display:block;border-top:1px solid var(--line);padding:8px 0}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(stack: StackConfig, findings: Sequence[Finding], now: datetime) -> str:
    """Return the page.

    Args:
        stack: the checked configuration, for the drawing.
        findings: the rows; the threats' first.
        now: when the audit began.
    """
    name = escape(stack.stack)
    subjects = dict.fromkeys(finding.subject for finding in findings)
    tables = "".join(
        f"<h2>{escape(subject if subject.startswith('stack ') else f'node {subject}')}</h2>"
        + _table([finding for finding in findings if finding.subject == subject])
        for subject in subjects
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Audit of {name}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Audit of the stack {name}</h1>"
        f'<p class="sub">{now:%Y-%m-%d %H:%M:%S} UTC, read from the running machines</p>'
        f'<div class="counts">{_counts(findings)}</div>'
        f"{drawing(stack, findings)}{tables}</body></html>\n"
    )


def _counts(findings: Sequence[Finding]) -> str:
    return "".join(
        f'<div class="{css_class(verdict)}"><b>{sum(each.verdict == verdict for each in findings)}</b>'
        f"{verdict}</div>"
        for verdict in Verdict
    )


def _table(findings: Sequence[Finding]) -> str:
    rows = "".join(_row(finding) for finding in findings)
    return f"<table><tr><th>verdict</th><th>what</th><th>seen</th></tr>{rows}</table>"


def _row(finding: Finding) -> str:
    more = [finding.means, finding.remedy, f"chosen by {finding.key}" if finding.key else ""]
    said = "".join(f"<div>{escape(text)}</div>" for text in more if text)
    return (
        f'<tr><td class="v {css_class(finding.verdict)}">{finding.verdict}</td>'
        f'<td class="w">{escape(finding.what)}<div class="id">{escape(finding.id)}</div></td>'
        f"<td><code>{escape(finding.evidence)}</code>{said}</td></tr>"
    )
