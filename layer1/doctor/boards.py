"""Whether a board's card can be flashed, where the stack names a device."""

from __future__ import annotations

from collections.abc import Iterable

from layer1.doctor.check import Answer, Check, judged
from layer1.findings import Verdict
from layer1.model import BoardNode
from layer1.pi.guard import Candidate

View = tuple[BoardNode, tuple[Candidate, ...]]
_LIST = "python -m layer1 pi devices"


def device(view: View) -> Answer | None:
    """Say whether a board's device is there, is the confirmed one, and may be written."""
    board, candidates = view
    if board.device is None or board.booted:
        return None
    found = _same(board.device, candidates)
    if found is None:
        return Answer(Verdict.BROKEN, f"{board.device} is not there", f"plug the card in; {_LIST}")
    problems = list(found.refusals)
    if found.serial != board.confirm_erase:
        problems.append(f"{board.key}.confirm_erase is not the serial of {found.node}")
    return judged(
        not problems,
        "; ".join(problems) or f"{found.node}, {found.size_bytes >> 30} GiB, serial as confirmed",
        f"{_LIST} shows each disk, its serial and what stands against it",
    )


def _same(name: str, candidates: Iterable[Candidate]) -> Candidate | None:
    return next((candidate for candidate in candidates if candidate.device == name), None)


DEVICE: Check[View] = Check(
    id="pi.device",
    what="the card to flash",
    means="`up` stops at this board; nothing is written",
    judge=device,
)
