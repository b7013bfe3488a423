"""No secret in what is shown of a config: examples of both kinds, and any document with a secret in it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from layer1.plan_guard.differences import _documents, _ignition
from layer1.plan_guard.redacted import Redactor, compare

SECRET = "s3cr3t-0f-th3-st4ck"
OTHER = "4n0th3r-s3cr3t-0f-it"
KEYS = st.sampled_from(
    ["contents", "source", "token", "key", "certSANs", "inline", "servers", "aescbcEncryptionSecret"]
)


def documents(secret: str) -> st.SearchStrategy[Any]:
    texts = st.sampled_from([secret, f"data:,{secret}", f"x {secret} y", "plain"])
    leaves = st.one_of(texts, st.booleans(), st.none(), st.integers())
    return st.recursive(
        leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3))
    )


@given(documents(SECRET), documents(OTHER))
def test_no_text_is_shown_below_any_key_that_is_not_known_to_be_harmless(old: Any, new: Any) -> None:
    shown = compare(old, new, Redactor())
    labels: dict[str, str] = {}
    text = "\n".join([each.as_text() for each in shown] + [each.as_label(labels) for each in shown])
    assert SECRET not in text
    assert OTHER not in text
    assert "plain" not in text


def lines(old: Any, new: Any) -> list[str]:
    labels: dict[str, str] = {}
    return [each.as_label(labels) for each in compare(old, new, Redactor())]


def test_ignition_shows_which_file_differs_and_how_it_is_kept() -> None:
    def config(text: str, mode: int) -> str:
        return json.dumps(
            {"storage": {"files": [{"path": "/etc/x", "mode": mode, "contents": {"source": text}}]}}
        )

    assert lines(_ignition(config("data:,a", 384)), _ignition(config("data:,b", 420))) == [
        "~ storage.files[/etc/x].contents.source: secret #1 -> secret #2",
        "~ storage.files[/etc/x].mode: 384 -> 420",
    ]


def test_layer2s_config_is_opened_and_its_content_is_not() -> None:
    inner = {
        "ignition": {"version": "3.4.0"},
        "storage": {"files": [{"path": "/l2", "contents": {"source": SECRET}}]},
    }
    outer = {"ignition": {"config": {"merge": [{"source": f"data:,{json.dumps(inner)}"}]}}}
    shown = lines({}, _ignition(json.dumps(outer)))
    assert "+ ignition.config.merge[0].storage.files[/l2].path: /l2" in shown
    assert any(line.startswith("+ ignition.config.merge[0].storage.files[/l2].contents") for line in shown)
    assert SECRET not in "".join(shown)


def test_one_more_file_leaves_the_others_alone() -> None:
    a, b, c = ({"path": f"/{name}", "contents": name} for name in "abc")
    assert lines([a, c], [a, b, c]) == ["+ [/b].contents: secret #1", "+ [/b].path: /b"]


def test_machine_config_shows_images_and_hides_addresses_of_servers() -> None:
    old = "machine:\n  token: t1\n  install: {image: a:1}\n---\napiVersion: v1\nkind: K\nservers: [x]\n"
    new = "machine:\n  token: t2\n  install: {image: a:2}\n---\napiVersion: v1\nkind: K\nservers: [x]\n"
    assert lines(_documents(old), _documents(new)) == [
        "~ [0].machine.install.image: a:1 -> a:2",
        "~ [0].machine.token: secret #1 -> secret #2",
    ]


def test_the_same_secret_is_the_same_digest_in_a_run_and_another_in_the_next() -> None:
    first, second = Redactor(), Redactor()
    assert first.digest(SECRET) == first.digest(SECRET) != first.digest(OTHER)
    assert first.digest(SECRET) != second.digest(SECRET)
    moved = [each.as_text() for each in compare({"a": SECRET}, {"b": SECRET}, first)]
    assert moved[0].removeprefix("- a: ") == moved[1].removeprefix("+ b: ")
