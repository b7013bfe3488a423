"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import pytest
from image_support import IMAGE, MIB, VERSION

from layer1.images import cli
from layer1.images.download import Progress
from layer1.images.lockfile import LockFile


@pytest.fixture(autouse=True)
def own_key(monkeypatch, signer):
    monkeypatch.setattr(cli, "FLATCAR_POLICY", signer.policy)


@pytest.fixture
def run(lock, cache, place):
    parser = argparse.ArgumentParser(prog="layer1")
    cli.add_parser(parser.add_subparsers(required=True))

    def call(verb: str, *words: str) -> int:
        if words[:1] == ("flatcar",):
            words += ("--version", VERSION, "--base-url", place.mirror.url)
        arguments = parser.parse_args(
            ["image", verb, *words, "--lock", str(lock.path), "--cache", str(cache)]
        )
        return arguments.run(arguments)

    return call


def test_fetch_prints_one_line_of_json(run, capsys, release):
    assert run("fetch", "flatcar", "--json") == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    document = json.loads(out)
    assert document["sha512"] == hashlib.sha512(release.image).hexdigest()
    assert document["verified_by"] == "signature"
    assert document["warnings"] == []
    assert Path(document["path"]).read_bytes() == release.image
    assert f"{IMAGE}: " in err
    assert "done" in err


def test_fetch_prints_the_path(run, capsys, cache):
    assert run("fetch", "flatcar") == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()).parent == cache / "blobs"
    assert f"flatcar/{VERSION}/amd64/openstack: verified by signature" in err


def test_pin_shows_what_it_found_then_list_and_verify(run, capsys, lock, release):
    assert run("list") == 0
    assert capsys.readouterr().out == "nothing is pinned or fetched\n"
    assert run("pin", "flatcar") == 0
    out, err = capsys.readouterr()
    sha512 = hashlib.sha512(release.image).hexdigest()
    assert out == ""
    for word in (sha512, release.signer.primary, "bound by inside", "written to", "2026-08-12"):
        assert word in err
    assert LockFile.load(lock.path).entries[f"flatcar/{VERSION}/amd64/openstack"].sha512 == sha512
    assert run("pin", "flatcar", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["verified_by"] == "signature+pin"
    assert "already in" in err
    assert run("verify", "flatcar") == 0
    assert "verified by signature+pin" in capsys.readouterr().err
    assert run("list") == 0
    assert ": pinned; fetched, " in capsys.readouterr().out


def test_list_tells_what_is_not_fetched_and_what_is_another(run, capsys, lock, cache):
    assert run("pin", "flatcar") == 0
    name = f"flatcar/{VERSION}/amd64/openstack"
    read = LockFile.load(lock.path)
    read.with_entry(name, read.entries[name].model_copy(update={"sha512": "0" * 128})).save()
    capsys.readouterr()
    assert run("list") == 0
    assert "pinned; fetched, but not the pinned file" in capsys.readouterr().out
    next((cache / "records").glob("*.json")).unlink()
    assert run("list") == 0
    assert "pinned; not fetched" in capsys.readouterr().out


def test_refusal_is_a_message_and_exit_code_1(run, capsys, place, release):
    place.put(release.copy(**{IMAGE: release.image + b"x"}))
    assert run("fetch", "flatcar", "--json") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: signature check failed for http://127.0.0.1:" in err
    assert "way out" in err
    assert "Traceback" not in err


def test_the_command_in_a_message_is_the_one_to_run(run, capsys, mirror):
    mirror.files["/install.sh"] = b"#!/bin/sh\n"
    words = ("k3s-installer", "--version", "v1.34.1+k3s1", "--url", f"{mirror.url}/install.sh")
    assert run("fetch", *words) == 1
    err = capsys.readouterr().err
    command = err.split("`")[1].split()
    assert command[:4] == ["python", "-m", "layer1", "image"]
    assert run(*command[4:]) == 0
    assert "nobody's signature" in capsys.readouterr().err
    assert run("fetch", *words) == 0


def test_missing_files_are_messages(run, capsys, tmp_path, lock):
    assert run("fetch", "practice", "--manifest", str(tmp_path / "none.json")) == 1
    assert "manifest check failed" in capsys.readouterr().err
    lock.path.unlink()
    assert run("fetch", "flatcar") == 1
    assert "lock file check failed" in capsys.readouterr().err


def test_practice_image(run, capsys, tmp_path, image):
    (tmp_path / "guest.qcow2").write_bytes(image)
    manifest = {
        "name": "guest",
        "version": "1",
        "arch": "amd64",
        "format": "qcow2",
        "path": "guest.qcow2",
        "size_bytes": len(image),
        "sha512": hashlib.sha512(image).hexdigest(),
        "virtual_size_bytes": 4 * MIB,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert run("fetch", "practice", "--manifest", str(tmp_path / "manifest.json"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["verified_by"] == "manifest"


def test_interrupt(run, capsys, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.store, "ensure", stop)
    assert run("fetch", "flatcar") == 130
    assert "stopped" in capsys.readouterr().err


def test_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with cli.shown_progress() as show:
        show(Progress(kind="advance", file="f.img", done_bytes=MIB, total_bytes=2 * MIB))
        show(Progress(kind="note", file="f.img", message="[bold]again[/]"))
        show(Progress(kind="done", file="f.img", done_bytes=2 * MIB, total_bytes=2 * MIB))
    out, err = capsys.readouterr()
    assert out == ""
    assert "f.img" in err
    assert "[bold]again[/]" in err


def test_plain_lines_elsewhere(capsys):
    show = cli._Plain()
    for step in range(100):
        show(Progress(kind="advance", file="f.img", done_bytes=step, total_bytes=None))
    show(Progress(kind="done", file="f.img", done_bytes=100, total_bytes=100))
    assert capsys.readouterr().err.count("\n") == 2
