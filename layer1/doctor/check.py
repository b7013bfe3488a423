"""What a check is: a question with a name, whose judge turns facts into an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from layer1.findings import Finding, Verdict

Facts = TypeVar("Facts")
View = TypeVar("View")


@dataclass(frozen=True, slots=True)
class Answer:
    """How something stands; `means` only where the check's own sentence does not fit."""

    verdict: Verdict
    evidence: str
    remedy: str = ""
    key: str | None = None
    means: str = ""


@dataclass(frozen=True, slots=True)
class Unlearned:
    """Why facts are missing, and the way to them."""

    evidence: str
    remedy: str


class UnlearnedError(Exception):
    """A judge has no facts to judge by."""

    def __init__(self, missing: Unlearned) -> None:
        self.missing = missing
        super().__init__(missing.evidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check(Generic[View]):
    """One question.

    Attributes:
        id: its stable name.
        what: what is looked at, in a few words.
        means: what breaks where it does not hold.
        judge: gives the answer, None where the question does not arise.
    """

    id: str
    what: str
    means: str
    judge: Callable[[View], Answer | None]


def learned(facts: Facts | Unlearned) -> Facts:
    """Return facts.

    Raises:
        UnlearnedError: there are none.
    """
    if isinstance(facts, Unlearned):
        raise UnlearnedError(facts)
    return facts


def judged(good: bool, evidence: str, remedy: str, key: str | None = None) -> Answer:
    """Answer from a yes or no; a no that the stack's key chose is weaker by choice."""
    if good:
        return Answer(Verdict.HOLDS, evidence)
    return Answer(Verdict.WEAKER if key else Verdict.BROKEN, evidence, remedy, key)


def findings(subject: str, checks: Iterable[Check[View]], view: View) -> list[Finding]:
    """Ask every question; what cannot be learned is unknown, and never holds."""
    rows = []
    for check in checks:
        try:
            answer = check.judge(view)
        except UnlearnedError as error:
            answer = Answer(Verdict.UNKNOWN, error.missing.evidence, error.missing.remedy)
        if answer is None:
            continue
        good = answer.verdict == Verdict.HOLDS
        rows.append(
            Finding(
                id=check.id,
                subject=subject,
                what=check.what,
                verdict=answer.verdict,
                evidence=answer.evidence,
                means="" if good else answer.means or check.means,
                remedy=answer.remedy,
                key=answer.key,
            )
        )
    return rows
