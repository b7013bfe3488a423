"""What the audit writes: a page that needs nothing else, and metrics that are never half."""

from __future__ import annotations

import re
import stat
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from audit_support import lab, load, strong

from layer1.audit.drawing import drawing
from layer1.audit.files import replace as replace_file
from layer1.audit.metrics import metrics
from layer1.audit.page import page
from layer1.audit.threats import summary
from layer1.errors import Layer1Error
from layer1.findings import Finding, Verdict

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIL = Finding(
    id="x.evil",
    subject="k3s-1",
    what='<script>alert("x")</script>',
    verdict=Verdict.BROKEN,
    evidence='"><img src=x onerror=y>',
    means="a & b",
    remedy="c < d",
)


def findings() -> list[Finding]:
    details = lab().findings()
    return [*summary("taudit", details), *details]


class Checked(HTMLParser):
    """Collects tags and attributes, and demands that what is opened is closed."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Checked:
    parser = Checked()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_whole_and_takes_nothing_from_elsewhere() -> None:
    text = page(load(), findings(), NOW)
    parsed = read(text)
    assert {tag for tag, _ in parsed.tags} == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "b", "code"),
        *("svg", "g", "rect", "text", "table", "tr", "th", "td"),
    }
    assert not {name for _, attributes in parsed.tags for name in attributes} & {
        "src",
        "href",
        "style",
        "onload",
    }
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme:dark" in text
    for finding in findings():
        assert finding.what in parsed.text
        assert finding.evidence in parsed.text
        assert finding.key is None or f"chosen by {finding.key}" in parsed.text


def test_a_text_with_markup_stays_a_text() -> None:
    parsed = read(page(load(), [EVIL], NOW))
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert "img" not in {tag for tag, _ in parsed.tags}
    assert EVIL.what in parsed.text
    assert EVIL.evidence in parsed.text


def test_the_drawing_names_each_wall_with_its_verdict_in_words() -> None:
    svg = ET.fromstring(drawing(load(), lab().findings()))  # noqa: S314 - our own
    said = [text.text for text in svg.iter("text")]
    assert "host home: qemu:///system" in said
    assert "k3s-1 · flatcar · 10.213.9.80" in said
    assert said.count("weaker by choice") == 4
    assert said.count("holds") == 3
    broken = replace(lab().findings()[0], id="network.rules", verdict=Verdict.BROKEN)
    svg = ET.fromstring(drawing(load(), [*strong().findings(), broken]))  # noqa: S314
    assert [group.get("class") for group in svg.iter("g")].count("broken") == 1


def test_metrics_are_prometheus_text_with_one_verdict_a_row() -> None:
    text = metrics("taudit", [*findings(), EVIL], NOW, 3.25)
    sample = re.compile(
        r'(?P<name>[a-z0-9_]+)\{(?P<labels>(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+)\} (?P<value>[0-9.]+)'
    )
    rows: dict[tuple[str, ...], float] = {}
    declared: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            declared.add(line.split()[2])
        elif not line.startswith("# HELP "):
            found = sample.fullmatch(line)
            assert found, line
            assert found["name"] in declared
            key = (found["name"], *re.findall(r'="((?:[^"\\]|\\.)*)"', found["labels"]))
            assert key not in rows
            rows[key] = float(found["value"])
    for finding in [*findings(), EVIL]:
        values = {v: rows["layer1_audit_row", "taudit", finding.subject, finding.id, v] for v in Verdict}
        assert values == {verdict: float(verdict == finding.verdict) for verdict in Verdict}
    assert rows["layer1_audit_failed", "taudit"] == 1
    assert rows["layer1_audit_timestamp_seconds", "taudit"] == NOW.timestamp()
    assert rows["layer1_audit_duration_seconds", "taudit"] == 3.25
    assert text.endswith("\n")
    assert 'layer1_audit_failed{stack="taudit"} 0' in metrics("taudit", findings(), NOW, 1.0)


def test_a_label_cannot_break_out() -> None:
    text = metrics('a"b\\c\nd', [], NOW, 1.0)
    assert 'stack="a\\"b\\\\c\\nd"' in text


def test_a_file_is_replaced_at_once_and_readable_for_the_exporter(tmp_path: Path) -> None:
    target = tmp_path / "layer1.prom"
    target.write_text("old")
    before = target.stat().st_ino
    replace_file(target, "new\n")
    assert target.read_text() == "new\n"
    assert target.stat().st_ino != before, "written over in place, a reader can see half of it"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(Layer1Error, match="cannot be written"):
        replace_file(tmp_path / "nowhere" / "x.prom", "")
