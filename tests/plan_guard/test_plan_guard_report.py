"""What is printed: the Markdown as it was agreed, JSON by its schema, and the command's exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plan_guard_support import PREVIEWS, captured, document

from layer1.findings import SCHEMA_VERSION
from layer1.paths import REPOSITORY
from layer1.plan_guard import losses
from layer1.plan_guard.nodes import fates, stack_of
from layer1.plan_guard.redacted import Redactor, compare
from layer1.plan_guard.report import Report, as_document, as_markdown, as_text

GOLDEN = Path(__file__).parent / "golden.md"


def report(name: str, allowed: tuple[str, ...] = ()) -> Report:
    planned = captured(name)
    judged = fates(planned, stack_of(planned, "lab"))
    found = losses.losses(planned, judged)
    config = compare({"contents": "old", "mode": 384}, {"contents": "new", "mode": 420}, Redactor())
    return Report(
        stack="lab",
        fates=judged,
        findings=losses.as_findings("lab", found, allowed),
        errors=planned.errors,
        differences={"k3s-1": config},
        allow_all=losses.command("lab", losses.needed(found)) if found and not allowed else "",
    )


def guard(*arguments: str, stdin: str = "", allow: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "layer1", "guard", "--stack", "lab", *arguments],
        cwd=REPOSITORY, input=stdin, env={"PATH": "/usr/bin:/bin", "ALLOW": allow},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_markdown_is_the_agreed_one_in_every_run() -> None:
    assert as_markdown(report("flatcar-key")) == GOLDEN.read_text()


def test_markdown_survives_what_a_name_or_an_error_may_hold() -> None:
    said = report("flatcar-same")
    strange = Report(
        stack=said.stack,
        fates=said.fates,
        findings=(),
        errors=("a ```` fence\n| cell | <b>",),
        differences={},
        allow_all="",
    )
    text = as_markdown(strange)
    assert "`````\na ```` fence" in text


def test_text_says_what_is_refused_and_what_was_allowed() -> None:
    refused = as_text(report("flatcar-key"))
    assert "refused: k3s-1, k3s-2: 2 of 2 k3s servers lose their root disk" in refused
    allowed = as_text(report("flatcar-key", ("k3s-1", "k3s-2")))
    assert "allowed: k3s-1, k3s-2" in allowed
    assert "make up" not in allowed


def test_json_has_the_schema_of_all_findings_and_the_nodes_besides() -> None:
    parsed = json.loads(as_document(report("flatcar-key")))
    assert parsed["schema_version"] == SCHEMA_VERSION
    assert parsed["kind"] == "guard"
    assert [each["id"] for each in parsed["findings"]] == ["control-plane.quorum"]
    assert {node["name"]: node["impact"] for node in parsed["nodes"]} == {
        "home": "unchanged",
        "k3s-1": "re-provisioned",
        "k3s-2": "re-provisioned",
    }
    assert parsed["nodes"][1]["differences"][1] == "~ mode: 384 -> 420"


@pytest.mark.parametrize(
    ("name", "arguments", "allow", "code"),
    [
        ("flatcar-same", ("--enforce",), "", 0),
        ("flatcar-key", (), "", 0),
        ("flatcar-key", ("--enforce",), "", 1),
        ("flatcar-key", ("--enforce",), "k3s-1", 1),
        ("flatcar-key", ("--enforce",), "k3s-1,k3s-2", 0),
        ("flatcar-key", ("--enforce", "--allow", "k3s-1 k3s-2"), "", 0),
        ("flatcar-key", ("--enforce",), "k3s-1,k3s-2,k3s-7", 2),
        ("talos-data-gone", (), "worker-1", 1),
        ("failed-config", (), "", 1),
    ],
)
def test_exit_code(name: str, arguments: tuple[str, ...], allow: str, code: int) -> None:
    done = guard("--preview-json", str(PREVIEWS / f"{name}.json"), *arguments, allow=allow)
    assert done.returncode == code, done.stdout + done.stderr
    piped = guard("--preview-json", "-", *arguments, stdin=json.dumps(document(name)), allow=allow)
    assert (piped.returncode, piped.stdout) == (code, done.stdout)


def test_a_broken_file_is_one_plain_line() -> None:
    done = guard("--preview-json", "-", stdin='{"steps": [')
    assert done.returncode == 1
    assert done.stdout == ""
    assert "cut off" in done.stderr
    assert "Traceback" not in done.stderr
    assert guard("--preview-json", "/nowhere").returncode == 1
