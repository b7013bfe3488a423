"""Bringing a running board up to date, against a real sshd, systemd and sudo."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pi_remote_support import (
    APPLY,
    BEGIN,
    OTHER,
    PROXY_ADDRESS,
    SECRETS,
    STATUS,
    Board,
    Proxy,
    Seen,
    bundle_of,
    target,
    wait_for,
)

from layer1.errors import NodeError
from layer1.pi import remote
from layer1.pi.bundle import archive, digest
from layer1.pi.remote import BoardTarget

GOOD = bundle_of("echo 'changed: /etc/motd'; echo noise; echo 'changed: /etc/issue'")
LARGE = bundle_of("echo 'changed: much'", filling="0123456789abcde\n" * 30_000)  # ssh does not compress


def refusal(to: BoardTarget, bundle: dict[str, str]) -> str:
    with pytest.raises(NodeError) as caught:
        remote.apply(to, bundle)
    said = str(caught.value)
    assert said.startswith("pi-1: ")
    assert not any(secret in said for secret in SECRETS)
    return said


def sent(seen: Seen, bundle: dict[str, str]) -> int:
    return seen.commands.count(f"apply {digest(bundle)}")


def test_a_board_gets_its_bundle_and_says_how_it_is(board: Board, seen: Seen) -> None:
    applied = remote.apply(target(), GOOD)
    assert applied.digest == digest(GOOD) == board.read("applied").strip()
    assert applied.changed == ["/etc/motd", "/etc/issue"]
    assert not applied.rebooted
    assert applied.status["hostname"] == ["pi-1"]
    assert applied.status["unit.k3s-config.path"] == ["active/waiting/success"]
    assert board.read("runs") == "run\n"
    assert not (board.root / "var/lib/layer1/incoming").exists(), "the bundle holds a secret"
    assert not any(secret in line for secret in SECRETS for line in seen.lines)


def test_an_unchanged_bundle_sends_nothing(board: Board, seen: Seen, proxy: Proxy) -> None:
    remote.apply(target(), LARGE)
    log = proxy(10**9, 0)
    again = remote.apply(target(address=PROXY_ADDRESS), LARGE)
    assert (again.digest, again.changed, again.rebooted) == (digest(LARGE), [], False)
    assert seen.commands[-3:] == ["applied", "applied", "status"]
    assert board.read("runs") == "run\n"
    wait_for(lambda: len(log.read_text().splitlines()) == 3)
    assert sum(map(int, log.read_text().split())) < 30_000 < len(archive(LARGE))


def test_another_bundle_takes_the_place_of_the_first(board: Board) -> None:
    remote.apply(target(), GOOD)
    other = bundle_of("echo 'changed: something else'")
    assert remote.apply(target(), other).changed == ["something else"]
    assert board.read("applied").strip() == digest(other)


def test_another_host_key_is_an_error_at_once(board: Board, seen: Seen) -> None:
    said = refusal(target(host_key=OTHER[1], timeout_s=600), GOOD)
    assert "has another SSH host key than the stack's" in said
    assert seen.commands == ["applied"]
    assert board.read("runs") == ""


@pytest.mark.parametrize("key", [OTHER[0], STATUS[0]], ids=["unknown", "of the other user"])
def test_a_refused_key_is_an_error_once_it_is_certain(
    key: str, board: Board, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    monkeypatch.setattr(remote, "_REFUSED_S", 1.0)
    said = refusal(target(apply_key=key, timeout_s=600), GOOD)
    assert "is the right one but refuses the stack's key" in said
    assert len(seen.commands) > 2, "one refusal is not certain: the first boot may still be at it"
    assert board.read("runs") == ""


def test_a_key_that_comes_late_is_waited_for(board: Board) -> None:
    keys = board.root / "etc/ssh/layer1-keys/layer1-apply"
    keys.write_text(OTHER[1])
    timer = threading.Timer(1.5, lambda: keys.write_text(APPLY[1]))
    timer.start()
    try:
        assert remote.apply(target(), GOOD).digest == digest(GOOD)
    finally:
        timer.join()


def test_a_board_that_is_off_is_waited_for(machine: Board, seen: Seen) -> None:
    machine.power_off()
    timer = threading.Timer(1.0, machine.power_on)
    timer.start()
    try:
        assert remote.apply(target(), GOOD).digest == digest(GOOD)
    finally:
        timer.join()
    assert seen.commands.count("applied") > 3
    (machine.root / "var/lib/layer1/applied").unlink()
    (machine.root / "var/lib/layer1/runs").unlink()


def test_the_wait_has_an_end(machine: Board) -> None:
    said = refusal(target(address="10.77.0.9", timeout_s=1), GOOD)
    assert "not as planned within 1 s" in said
    assert "run `up` again" in said
    assert "10.77.0.9" in said.splitlines()[1]


def test_a_board_that_never_ends_its_apply_is_not_done(board: Board) -> None:
    slow = bundle_of("while [ ! -e /run/go-on ]; do sleep 0.1; done")
    assert "a bundle is being applied on it" in refusal(target(timeout_s=3), slow)
    assert board.read("applied") == ""
    (board.root / "run/go-on").touch()
    assert remote.apply(target(), slow).changed == []
    assert board.read("runs") == "run\n", "it was let run to its end, not started again"
    (board.root / "run/go-on").unlink()


def test_a_connection_cut_in_the_upload_leaves_nothing_and_is_tried_again(
    board: Board, seen: Seen, proxy: Proxy
) -> None:
    proxy(100_000, 2)
    applied = remote.apply(target(address=PROXY_ADDRESS), LARGE)
    assert applied.digest == digest(LARGE) == board.read("applied").strip()
    assert applied.changed == ["much"]
    assert sent(seen, LARGE) == 3
    assert board.read("runs") == "run\n"


def test_a_connection_cut_each_time_is_no_success(board: Board, seen: Seen, proxy: Proxy) -> None:
    proxy(100_000, 99)
    said = refusal(target(address=PROXY_ADDRESS), LARGE)
    assert "was sent 5 times and is not applied" in said
    assert sent(seen, LARGE) == 5
    assert (board.read("runs"), board.read("applied")) == ("", "")
    wait_for(lambda: not (board.root / "var/lib/layer1/incoming").exists())


def test_ssh_that_goes_away_while_the_board_applies(board: Board, seen: Seen) -> None:
    """The board's own sshd and every session end; the run does not."""
    script = "systemctl stop ssh.service; systemctl kill --signal=KILL 'session-*.scope' || true; sleep 1.5"
    bundle = bundle_of(f"{script}\nsystemctl start ssh.service; echo 'changed: sshd'")
    assert remote.apply(target(), bundle).changed == ["sshd"]
    assert sent(seen, bundle) == 1
    assert board.read("runs") == "run\n"


REBOOTS = """
if [ ! -e /var/lib/layer1/half ]; then
    echo half >/var/lib/layer1/half
    systemctl reboot
    sleep 60
fi
echo 'changed: the other half'"""


def test_a_reboot_in_the_middle_is_not_done_and_sent_again(board: Board, seen: Seen) -> None:
    bundle, before = bundle_of(REBOOTS), board.boots
    applied = remote.apply(target(), bundle)
    assert board.boots == before + 1
    assert applied.changed == ["the other half"]
    assert sent(seen, bundle) == 2
    assert board.read("runs") == "run\nrun\n"
    assert board.read("applied").strip() == digest(bundle)


def test_power_cut_in_the_middle_is_not_done_and_sent_again(board: Board, seen: Seen) -> None:
    bundle = bundle_of(REBOOTS.replace("systemctl reboot", ""))

    def cut() -> None:
        wait_for(lambda: board.read("half"))
        board.power_cut()

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        applied = remote.apply(target(), bundle)
    finally:
        cutter.join()
    assert applied.changed == ["the other half"]
    assert sent(seen, bundle) == 2
    assert board.read("applied").strip() == digest(bundle)


def test_a_board_that_reboots_whenever_it_applies_is_given_up(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_SENDS", 2)
    bundle = bundle_of("systemctl reboot; sleep 60")
    assert "was sent 2 times and is not applied" in refusal(target(), bundle)
    assert board.read("applied") == ""


def test_a_reboot_that_the_bundle_needs(board: Board, seen: Seen) -> None:
    bundle, before = (
        bundle_of("echo kernel >/var/lib/layer1/reboot-required; echo 'changed: kernel'"),
        board.boots,
    )
    first_id = (board.disk / f"boot-id-{before - 1}").read_text().strip()
    applied = remote.apply(target(), bundle)
    assert applied.rebooted
    assert applied.changed == ["kernel"]
    assert board.boots == before + 1
    assert applied.status["boot_id"][0] == (board.disk / f"boot-id-{before}").read_text().strip() != first_id
    assert board.read("reboot-required") == ""
    assert sent(seen, bundle) == 1


FAILS = """
echo half >/var/lib/layer1/half
echo 'changed: one half'
if [ ! -e /run/mended ]; then
    cat "$1/files/etc/ssh/layer1_host_ed25519_key"
    echo 'failed: nft is missing' >&2
    exit 3
fi
echo 'changed: the other half'"""


def test_an_apply_that_fails_says_why_and_the_next_goes_on(board: Board, seen: Seen) -> None:
    remote.apply(target(), GOOD)
    bundle = bundle_of(FAILS)
    said = refusal(target(timeout_s=600), bundle)
    assert "apply.sh failed on the board with exit code 3; the bundle counts as not applied" in said
    assert "\n  changed: one half\n" in said
    assert said.endswith("\n  failed: nft is missing")
    assert "(a line with a secret)" in said
    assert sent(seen, bundle) == 1, "what failed by itself fails again"
    assert not (board.root / "var/lib/layer1/incoming").exists()

    # Back to the bundle before: the board is half another, so it is sent.
    assert remote.apply(target(), GOOD).changed == ["/etc/motd", "/etc/issue"]
    (board.root / "run/mended").touch()
    assert remote.apply(target(), bundle).changed == ["one half", "the other half"]
    (board.root / "run/mended").unlink()


def test_an_apply_that_ends_well_without_its_mark_is_no_success(board: Board) -> None:
    bundle = {**GOOD, "apply.sh": f"{BEGIN}echo 'changed: nothing'\n"}
    assert "ended well but the bundle is not marked as applied" in refusal(target(), bundle)


def test_two_at_once_do_not_mix(board: Board, seen: Seen) -> None:
    script = """
echo "begin NAME" >>/var/lib/layer1/order
sleep 1
echo "end NAME" >>/var/lib/layer1/order
echo 'changed: NAME'"""
    bundles = [bundle_of(script.replace("NAME", name)) for name in ("a", "b")]
    done: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda bundle=bundle: done.append(remote.apply(target(), bundle).changed))
        for bundle in bundles
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = board.read("order").splitlines()
    assert sorted(done) in ([["a"], ["b"]], [[], ["a"]], [[], ["b"]])
    assert [line.split()[0] for line in order] == ["begin", "end"] * (len(order) // 2)
    assert all(order[i].split()[1] == order[i + 1].split()[1] for i in range(0, len(order), 2))
    assert {line.split()[1] for line in order} == {"a", "b"}


def test_a_board_in_its_first_boot_is_let_end_it(board: Board, seen: Seen, tmp_path: Path) -> None:
    """firstrun.sh holds the same lock; what it applied is not sent again."""
    script = f"sleep 1.5; echo {digest(GOOD)} >/var/lib/layer1/applied"
    board.run("systemd-run", "--quiet", "--collect", "flock", "/run/layer1-apply.lock", "sh", "-c", script)
    wait_for((board.root / "run/layer1-apply.lock").exists)
    assert remote.apply(target(), GOOD).changed == []
    assert sent(seen, GOOD) == 0


def test_k3s_is_waited_for_and_its_failure_told(board: Board) -> None:
    mark = board.root / "var/lib/layer1/k3s-installed"
    mark.unlink()
    try:
        said = refusal(target(timeout_s=3), GOOD)
        assert "it answers, but is not provisioned yet" in said
        assert "unit.k3s-config.path=active/waiting/success" in said
    finally:
        mark.write_text("v1.36.4+k3s1\n")
    assert board.read("applied").strip() == digest(GOOD)


def test_a_board_by_another_name_is_another_board(board: Board) -> None:
    with pytest.raises(NodeError, match=r"^pi-2: the machine at 10\.77\.0\.2 calls itself pi-1$"):
        remote.apply(target(hostname="pi-2"), GOOD)
