"""The tasks behind the stack's command resources: each takes its request, and an error repeats no value."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_support import KEYS, LAYER2

from layer1 import __main__ as program
from layer1 import stack_file, tasks
from layer1.errors import Layer1Error

SECRET = "s3cr3tzq7"


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAYER1_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("LAYER1_CACHE", str(tmp_path / "cache"))
    return tmp_path / "work"


def _refusal(name: str, request: str) -> str:
    with pytest.raises(Layer1Error) as caught:
        tasks.run(name, request)
    assert caught.value.__cause__ is None
    return str(caught.value)


# None gets as far as libvirt or the network: each lacks a key, or has a wrong type at the first use.
SHAPES: list[Any] = [SECRET, [SECRET], {"unknown": SECRET}, 7, None, {"butane": [SECRET]}, {"butane": 7}]


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_a_request_that_does_not_fit_gives_one_sentence_without_values(name: str) -> None:
    for shape in SHAPES:
        said = _refusal(name, json.dumps(shape))
        assert said.startswith(f"task {name}: the request does not fit"), (shape, said)
        assert SECRET not in said
    for text in ("", "{", SECRET, f'{{"a": "{SECRET}"', "[" * 100_000):
        assert SECRET not in _refusal(name, text)


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("seed", {"file_name": "x.iso", "label": "l", "files": [SECRET]}),
        ("seed", {"file_name": "x.iso", "label": "l", "files": {"a": 7}}),
        ("seed", {"file_name": 7, "label": "l", "files": {"a": SECRET}}),
        ("seed", {"file_name": f"../{SECRET}", "label": "l", "files": {"a": SECRET}}),
        ("seed-unstage", {"path": 7}),
        ("node-ready", {"uri": SECRET}),
        ("node-ready", {"status_key": SECRET, "more": SECRET}),
        ("image", {"kind": SECRET}),
        ("image", {"kind": "flatcar", "version": SECRET, "arch": "amd64"}),
        ("image", {"kind": "practice", "sha512": SECRET}),
    ],
)
def test_a_request_of_the_wrong_types_repeats_no_value(name: str, request_: dict[str, Any]) -> None:
    assert SECRET not in _refusal(name, json.dumps(request_))


@given(st.text(max_size=30))
def test_no_text_is_repeated_by_the_ignition_task(text: str) -> None:
    assert SECRET not in _refusal("ignition", json.dumps({"butane": [text, SECRET]}))
    assert SECRET not in _refusal("ignition", text + SECRET)


def test_an_ignition_task_prints_ignition() -> None:
    made = tasks.run("ignition", json.dumps({"butane": "variant: flatcar\nversion: 1.1.0\n"}))
    assert json.loads(made)["ignition"]["version"] == "3.4.0"


def test_a_seed_is_staged_and_discarded_and_each_may_run_twice(work: Path) -> None:
    request = json.dumps({"file_name": "x.iso", "label": "config-2", "files": {"user_data": LAYER2}})
    path = tasks.run("seed", request)
    assert path == tasks.run("seed", request) == str(work / "seeds" / "x.iso")
    assert Path(path).exists()
    for _ in range(2):
        assert tasks.run("seed-discard", request) == ""
    assert not Path(path).exists()
    tasks.run("seed", request)
    for _ in range(2):
        assert tasks.run("seed-unstage", json.dumps({"path": path})) == ""
    assert not Path(path).exists()


def test_the_command_reads_stdin_prints_the_result_and_no_newline_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], work: Path
) -> None:
    request = {"file_name": "x.iso", "label": "config-2", "files": {"key": KEYS.host_private}}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    assert program.main(["task", "seed"]) == 0
    assert capsys.readouterr() == (str(work / "seeds" / "x.iso"), "")


def test_the_command_fails_with_the_message_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"butane": f"variant: [{SECRET}"})))
    assert program.main(["task", "ignition"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("butane --strict refused the config")
    assert SECRET not in err


def test_an_unknown_task_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["task", "reboot-the-host"])
    assert caught.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stack", "text", "said"),
    [
        ("missing", None, "Pulumi.missing.yaml: no such stack file; copy Pulumi.dev.yaml and change it"),
        ("broken", "config:\n  a: [s3cr3tzq7\n", "Pulumi.broken.yaml, line 3: is not YAML"),
        (
            "other",
            "config:\n  layer1:nodes: s3cr3tzq7\n",
            "layer1:nodes: must be a list of at least one node",
        ),
        ("empty", "", "layer1:nodes: must be a list of at least one node"),
        ("list", "- s3cr3tzq7\n", "layer1:nodes: must be a list of at least one node"),
    ],
)
def test_the_plan_of_a_bad_stack_file_is_one_message(  # noqa: PLR0917
    stack: str,
    text: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stack_file, "REPOSITORY", tmp_path)
    if text is not None:
        (tmp_path / f"Pulumi.{stack}.yaml").write_text(text)
    assert program.main(["plan", "--stack", stack]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert SECRET not in err


def test_the_plan_of_the_shipped_stacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As shipped: dev wants a key of its own; lab's key is made on the machine.
    assert program.main(["plan", "--stack", "dev"]) == 1
    assert "layer1:defaults.ssh_authorized_keys[0]: is still the placeholder" in capsys.readouterr().err
    for name in ("dev", "lab"):
        text = (stack_file.REPOSITORY / f"Pulumi.{name}.yaml").read_text()
        text = text.replace("YOUR_SSH_PUBLIC_KEY", KEYS.host_public)
        (tmp_path / f"Pulumi.{name}.yaml").write_text(text)
    (tmp_path / "key.pub").write_text(KEYS.host_public)
    lab = tmp_path / "Pulumi.lab.yaml"
    lab.write_text(lab.read_text().replace(".layer1/lab/id_ed25519.pub", f"{tmp_path}/key.pub"))
    monkeypatch.setattr(stack_file, "REPOSITORY", tmp_path)
    monkeypatch.delenv("FK_VM_RAM_MB", raising=False)
    monkeypatch.delenv("FK_VM_VCPUS", raising=False)
    assert program.main(["plan", "--stack", "dev"]) == 0
    assert "WEAKER" not in capsys.readouterr().out
    assert program.main(["plan", "--stack", "lab"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("WEAKER" in line for line in lines) == 4
