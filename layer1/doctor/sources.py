"""Whether the images and installers that a stack names can be had: from the cache, a file, or a server."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import requests

from layer1 import supply
from layer1.doctor.check import Answer, judged
from layer1.errors import ImageError
from layer1.findings import Finding, Verdict
from layer1.images import store
from layer1.model import Arch, StackConfig

LIMIT_S = 5.0
_TCP = Path("/proc/net/tcp")
_LISTENS = "0A"  # the state in /proc/net/tcp


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What is fetched from where.

    Attributes:
        id: the row's name.
        what: what it is, for people.
        url: http, https or file.
        lost: what stops without it.
        cached: the verified file that is there already, empty for none.
        inside: whether the URL is within the nodes' network, which comes with `up`: before that only a
            listener on this machine tells.
    """

    id: str
    what: str
    url: str
    lost: str
    cached: str = ""
    inside: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What asking gave: whether it is there, and in which words."""

    good: bool
    said: str


def listed(stack: StackConfig) -> list[Source]:
    """Return what a stack fetches, each once.

    Raises:
        ImageError: the practice image was not built.
    """
    cached = {record.name: record.sha512 for record in store.records(supply.image_cache())}
    sources = []
    for request in supply.image_requests(stack):
        thing = supply.wanted(request)
        blobs = (supply.image_cache() / "blobs").glob(f"{cached.get(thing.name, 'none')}.*")
        sources.append(
            Source(
                id="source.image",
                what=f"image {thing.name}",
                url=thing.url,
                lost="`up` stops before it makes anything: the image cannot be fetched",
                cached=next((blob.name[:12] for blob in blobs), ""),
            )
        )
    return [*sources, *(_k3s(stack) if supply.needs_installer(stack) else ())]


def _k3s(stack: StackConfig) -> list[Source]:
    arches = {"arm64" if node.arch == Arch.AARCH64 else "amd64" for node in stack.nodes} or {"arm64"}
    release = f"{stack.k3s.releases_url}/download/{quote(stack.k3s.version)}"
    urls = [("k3s-installer", "the k3s installer", stack.k3s.installer)]
    urls += [
        ("k3s", f"k3s {stack.k3s.version} {arch}", f"{release}/sha256sum-{arch}.txt")
        for arch in sorted(arches)
    ]
    return [
        Source(
            id=f"source.{name}",
            what=what,
            url=url,
            lost="the node comes up without k3s: `up` waits for it in vain",
            inside=_inside(stack, url),
        )
        for name, what, url in urls
    ]


def _inside(stack: StackConfig, url: str) -> bool:
    try:
        return bool(stack.nodes) and IPv4Address(urlsplit(url).hostname or "") in stack.network.network
    except AddressValueError:
        return False


def ask_all(sources: Sequence[Source], limit_s: float = LIMIT_S) -> list[Reply]:
    """Ask for every source at once; one that has not answered in time has not answered.

    Args:
        sources: what is asked for.
        limit_s: seconds for all of them together; a name server that hangs is not waited for.
    """
    answers: queue.Queue[tuple[int, Reply]] = queue.Queue()
    for number, source in enumerate(sources):
        work = threading.Thread(  # a daemon: nothing ends a look-up of a name in time
            target=lambda number=number, source=source: answers.put((number, _ask(source, limit_s))),
            daemon=True,
        )
        work.start()
    replies = [Reply(good=False, said=f"no answer within {limit_s:.0f} s")] * len(sources)
    deadline = time.monotonic() + limit_s
    for _ in sources:
        try:
            number, reply = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        replies[number] = reply
    return replies


def _ask(source: Source, limit_s: float) -> Reply:
    parts = urlsplit(source.url)
    if parts.scheme == "file":
        there = Path(unquote(parts.path)).is_file()
        return Reply(good=there, said="the file is there" if there else "the file is not there")
    if source.inside:
        return _listener(parts.hostname or "", parts.port or 80)
    try:
        # Servers of releases answer with a redirection to where the file is; that place has to answer too.
        answer = requests.head(source.url, timeout=limit_s, allow_redirects=True)
    except requests.RequestException as error:
        return Reply(good=False, said=_reason(error))
    return Reply(good=answer.ok, said=f"answers {answer.status_code}")


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "does not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not accepted"
    resolved = "Name" not in str(error) and "getaddrinfo" not in str(error)
    return "cannot be connected to" if resolved else "its name is not known"


def _listener(address: str, port: int, table: Path = _TCP) -> Reply:
    """Look for a socket of this machine that listens there."""
    number = int.from_bytes(socket.inet_aton(address), "little")
    wanted = {f"{number:08X}:{port:04X}", f"00000000:{port:04X}"}
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    good = any(row[1] in wanted and row[3] == _LISTENS for row in rows)
    where = f"{address}:{port}, which is in the nodes' network"
    return Reply(good=good, said=f"this machine {'listens' if good else 'does not listen'} on {where}")


def judge(source: Source, reply: Reply) -> Answer:
    """Say whether a source can be had."""
    if source.cached and not reply.good:
        return Answer(Verdict.HOLDS, f"verified in the cache ({source.cached}…); {source.url}: {reply.said}")
    if source.inside or urlsplit(source.url).scheme == "file":
        remedy = "make lab, where the source is the lab's; else put the file or the server there"
    else:
        remedy = (
            f"curl -sSIL {source.url} says more; a mirror is named in the stack by base_url or "
            "installer_url and releases_url"
        )
    return judged(reply.good, f"{source.url}: {reply.said}", remedy)


def findings(subject: str, stack: StackConfig) -> list[Finding]:
    """Ask for everything that a stack fetches, and look whether each has a digest or a signature."""
    try:
        sources = listed(stack)
    except ImageError as error:
        return [
            _finding(
                "source.image",
                subject,
                "the practice image",
                Answer(Verdict.BROKEN, str(error), "make lab"),
                "`up` has no image to start from",
            )
        ]
    replies = ask_all(sources)
    rows = [
        _finding(source.id, subject, source.what, judge(source, reply), source.lost)
        for source, reply in zip(sources, replies, strict=True)
    ]
    return [*rows, _pins(subject, stack)]


def _pins(subject: str, stack: StackConfig) -> Finding:
    problems = supply.unpinned(stack)
    if supply.needs_installer(stack):
        try:
            supply.installer_pin(stack)
        except ImageError as error:
            problems.append(str(error))
    answer = (
        Answer(Verdict.BROKEN, "\n".join(problems), "run the commands above, read what they fetched, commit")
        if problems
        else Answer(Verdict.HOLDS, "every image and installer has a signature or a pinned digest")
    )
    return _finding(
        "source.pins",
        subject,
        "what vouches for them",
        answer,
        "`up` stops: nothing says what the file must be",
    )


def _finding(identity: str, subject: str, what: str, answer: Answer, lost: str) -> Finding:
    good = answer.verdict == Verdict.HOLDS
    return Finding(
        id=identity,
        subject=subject,
        what=what,
        verdict=answer.verdict,
        evidence=answer.evidence,
        means="" if good else lost,
        remedy="" if good else answer.remedy,
        key=answer.key,
    )
