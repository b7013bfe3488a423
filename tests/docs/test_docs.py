"""The documents say what is there: links, paths, targets, keys, defaults, commands, messages, tests."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from layer1 import __main__ as command_line
from layer1 import config, contract
from layer1.images.failure import ArtefactError
from layer1.model import (
    BoardConfig,
    DefaultsConfig,
    HostConfig,
    ImagesConfig,
    K3sConfig,
    NetworkConfig,
    NodeConfig,
    PiConfig,
    TalosConfig,
)
from layer1.paths import REPOSITORY

README = REPOSITORY / "README.md"
DECISIONS = sorted((REPOSITORY / "docs/adr").glob("*.md"))
DOCUMENTS = [
    README,
    *(REPOSITORY / name for name in ("CHANGELOG.md", "policy/README.md")),
    *(REPOSITORY / "docs" / name for name in ("config.md", "plan-guard.md", "proof.md")),
    *DECISIONS,
]
PICTURES = sorted((REPOSITORY / "docs").glob("*.svg"))

SECTIONS: dict[str, type[BaseModel]] = {
    "hosts.<host>": HostConfig,
    "network": NetworkConfig,
    "images": ImagesConfig,
    "k3s": K3sConfig,
    "talos": TalosConfig,
    "defaults": DefaultsConfig,
    "pi": PiConfig,
    "nodes[]": NodeConfig,
}
_IN_REPOSITORY = re.compile(
    r"(?:(?:layer1|components|assets|lab|toolchain|tests|docs|bench|\.ci)/[\w./<>*-]*"
    r"|(?:Pulumi|README|CHANGELOG|requirements|pyproject)[\w.<>-]*\.(?:md|yaml|toml|in|lock)|Makefile)"
)
# Of libvirt and Pulumi, not of this program.
_FOREIGN = {
    "Security driver model 'apparmor' is not available",
    "cannot limit locked memory",
    "incorrect passphrase",
    "stack is currently locked",
}
# Put together from parts at run time; each part is in the source.
_TOGETHER = {"port 22 is closed": ("port 22 is", "closed"), "port 22 is open": ("port 22 is", "open")}


def spans(text: str) -> Iterator[str]:
    """Give what is code in a document: lines of its blocks, whole, and what stands between backticks."""
    for number, part in enumerate(re.split(r"^```.*$", text, flags=re.MULTILINE)):
        if number % 2:
            yield from filter(None, (line.strip() for line in part.splitlines()))
        else:
            yield from re.findall(r"`([^`]+)`", part)


def table(text: str, heading: str) -> list[list[str]]:
    """Give the cells of every table row below a heading, headers and rules left out."""
    section = re.split(r"^## ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = section.splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("|") and not line.startswith("|---") and not after.startswith("|---")
    ]


def fields_of(model: type[BaseModel], prefix: str) -> dict[str, Any]:
    """Give each key below a section with its default; keys of a list's items are written `list[].key`."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        key = f"{prefix}.{name}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= fields_of(kind, key)
            continue
        found[key] = field.default
        item = get_args(kind)[0] if get_origin(kind) is list else None
        if isinstance(item, type) and issubclass(item, BaseModel):
            found |= fields_of(item, f"{key}[]")
    return found


# A node is one or the other; keys that both have are those of a node in a domain.
KEYS = fields_of(BoardConfig, "nodes[]") | {
    key: value for prefix, model in SECTIONS.items() for key, value in fields_of(model, prefix).items()
}
TABLE = {
    re.findall(r"`layer1:([^`]+)`", row[0])[0]: row for row in table(README.read_text(), "Configuration")
}


def plain(key: str) -> str:
    """Write a key as the table does: any host, any position."""
    key = re.sub(r"\[\d+\]", "[]", key)
    return re.sub(r"^hosts\.[a-z0-9-]+", "hosts.<host>", key)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    headings = {
        path: {
            re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in path.read_text().splitlines()
            if line.startswith("#")
        }
        for path in DOCUMENTS
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), target
        assert not anchor or anchor in headings[path], target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_rows_of_a_table_have_its_columns(document: Path) -> None:
    columns = 0
    for line in document.read_text().splitlines():
        if not line.startswith("|"):
            columns = 0
            continue
        columns = columns or line.count("|")
        assert line.count("|") == columns, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    for span in spans(document.read_text()):
        if _IN_REPOSITORY.fullmatch(span):
            pattern = re.sub(r"<[a-z]+>", "*", span).rstrip("/")
            assert list(REPOSITORY.glob(pattern)), span


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(document: Path) -> None:
    code = "\n".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    for span in spans(document.read_text()):
        if re.fullmatch(r"test_\w+", span):
            assert f"def {span}(" in code, span


def test_make_targets_are_those_of_make_help() -> None:
    said = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    targets = set(re.findall(r"^\s*make ([a-z0-9-]+) +", said, flags=re.MULTILINE))
    rows = table(README.read_text(), "Make targets")
    assert {re.findall(r"`make ([a-z0-9-]+)`", row[0])[0] for row in rows} == targets
    for document in DOCUMENTS:
        for span in spans(document.read_text()):
            named = set(re.findall(r"(?:^|\$\(|[;&] *)make (?:-s )?([a-z]+)", span))
            assert named <= targets, f"{document.name}: {span}"


def test_the_table_has_every_key_and_no_other() -> None:
    assert KEYS.keys() | {"environment", "hosts", "nodes", *config.SECRET_KEYS} == TABLE.keys()
    assert {re.split(r"[.\[]", key)[0] for key in TABLE} == config.KEYS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_keys_that_are_named_exist(document: Path) -> None:
    known = {part for key in TABLE for part in (key, key.split(".")[0].removesuffix("[]"))}
    for span in spans(document.read_text()):
        for key in re.findall(r"layer1:([a-z0-9_.<>\[\]-]*[a-z0-9_>\]])", span):
            assert plain(key) in known, f"{span}: {key}"


@pytest.mark.parametrize("key", sorted(key for key, value in KEYS.items() if value is not PydanticUndefined))
def test_defaults_in_the_table_are_the_models(key: str) -> None:
    value, cell = KEYS[key], TABLE[key][2]
    if value is None or value == []:
        assert not re.search(r"\d{3,}", cell), "none is fixed"
    elif isinstance(value, bool):
        assert cell == f"`{str(value).lower()}`"
    else:
        assert cell == f"`{value}`"


def test_environment_variables_are_named() -> None:
    for document in (README, REPOSITORY / "docs/config.md"):
        for name in config.ENVIRONMENT:
            assert f"`{name}`" in document.read_text()


def test_output_fields_are_those_of_the_contract() -> None:
    named = {
        part
        for row in table(README.read_text(), "Outputs and Layer 2")
        for part in re.findall(r"`([^`]+)`", row[0])
    }
    words = {re.sub(r"^nodes\.<node>\.", "", name) for name in named}
    for field in contract.NodeOutput.model_fields:
        assert any(word == field or word.startswith(f"{field}.") for word in words), field
    for model, prefix in ((contract.ImageOutput, "image."), (contract.WallOutput, "walls.<wall>.")):
        for field in model.model_fields:
            assert {field, f"{prefix}{field}"} & words, field


class _Parsed(Exception):  # noqa: N818 - no error: the way out before anything is run
    """The arguments are understood; nothing is run."""


@pytest.mark.parametrize(
    "line",
    sorted(
        {
            span
            for document in DOCUMENTS
            if document.name != "CHANGELOG.md"  # names commands without their arguments
            for span in spans(document.read_text())
            if span.startswith("python -m layer1 ")
        }
    ),
)
def test_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        parse(parser, *arguments)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(_Parsed):
        command_line.main(shlex.split(line, comments=True)[3:])


def said_by_the_program() -> str:
    """Give every text of the source with its parts joined and `…` for each value."""
    texts = [(REPOSITORY / "toolchain/bootstrap.sh").read_text()]
    texts += [path.read_text() for path in (REPOSITORY / "assets/butane").iterdir()]
    sources = [REPOSITORY / "__main__.py"]
    sources += [path for name in ("layer1", "lab", "toolchain") for path in (REPOSITORY / name).rglob("*.py")]
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts).replace("`", "")


def test_messages_in_troubleshooting_are_the_programs_own() -> None:
    program = said_by_the_program()
    checks = set(re.findall(r'"([a-z ]+)"', ArtefactError.__doc__ or ""))
    looked_at = 0
    for row in table(README.read_text(), "Troubleshooting"):
        if not row[0].startswith("`"):
            continue
        for message in re.findall(r"`([^`]+)`", row[0]):
            looked_at += 1
            if check := re.fullmatch(r"([a-z ]+) check failed for …", message):
                assert check[1] in checks
                continue
            if message in _FOREIGN:
                continue
            for part in _TOGETHER.get(message, message.split("…")):
                assert part.strip() in program, message
    assert looked_at > 30


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_pictures_are_well_formed_and_stand_alone(picture: Path) -> None:
    root = ET.parse(picture).getroot()  # noqa: S314 - our own file
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    tags = {element.tag.rsplit("}", 1)[1] for element in root.iter()}
    assert {"title", "desc"} <= tags
    assert not tags & {"script", "image", "foreignObject"}
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


def test_there_is_a_picture_in_the_readme() -> None:
    assert "](docs/stack.svg)" in README.read_text()


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_decisions_have_their_parts_and_are_listed(decision: Path) -> None:
    text = decision.read_text()
    assert text.startswith(f"# {decision.stem[:4]} ")
    parts = ["Status: ", "## Context", "## Decision", "## Consequences", "## What would change it"]
    places = [text.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    assert f"](docs/adr/{decision.name})" in README.read_text()


def test_documents_named_in_the_source_exist() -> None:
    for folder in ("layer1", "components", "lab", "toolchain", "assets"):
        for source in (REPOSITORY / folder).rglob("*"):
            if source.suffix in {".py", ".sh", ".xsl", ".yaml", ".txt"}:
                for name in re.findall(r"\bdocs/[\w./-]+\.md", source.read_text(errors="replace")):
                    assert (REPOSITORY / name).exists(), f"{source}: {name}"
