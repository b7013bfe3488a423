"""Downloads: streamed, resumed, tried again, and hashed in the same pass."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import unquote, urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from layer1.images.failure import ArtefactError

CHUNK_BYTES = 1024**2
_RESERVE_BYTES = 16 * 1024**2
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_MAX_REDIRECTS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One step of a download.

    Attributes:
        kind: "advance" (bytes came), "done" (all came), or "note" (something worth a line).
        file: name of the file.
        done_bytes: bytes so far, resumed ones included.
        total_bytes: size of the file, or None while unknown.
        message: text of a note.
    """

    kind: Literal["advance", "done", "note"]
    file: str
    done_bytes: int = 0
    total_bytes: int | None = None
    message: str = ""


OnProgress = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Show nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Limits of a download; times in seconds.

    Attributes:
        attempts: connections at most for one file, the first included.
        connect_timeout_s: until a connection stands.
        read_timeout_s: without a byte.
        total_timeout_s: for one file, waits included.
        backoff_s: first wait between attempts; doubles, with jitter, up to `backoff_max_s`.
        sleep: waits; replaced in tests.
    """

    attempts: int = 5
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    total_timeout_s: float = 7200.0
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloaded:
    """A complete file that nothing vouches for yet."""

    path: Path
    sha512: str
    sha256: str
    size_bytes: int


class _TryAgainError(Exception):
    """A passing fault; the text is for the operator."""


@dataclass(slots=True)
class _State:
    """A partial file, its hashes, and what the server said of the whole."""

    path: Path
    stream: IO[bytes]
    sha512: Any = field(default_factory=hashlib.sha512)
    sha256: Any = field(default_factory=hashlib.sha256)
    done: int = 0
    total: int | None = None
    validator: str | None = None

    def take(self, data: bytes) -> None:
        self.stream.write(data)
        self.sha512.update(data)
        self.sha256.update(data)
        self.done += len(data)

    def restart(self) -> None:
        self.stream.seek(0)
        self.stream.truncate()
        self.sha512, self.sha256 = hashlib.sha512(), hashlib.sha256()
        self.done, self.total, self.validator = 0, None, None


def partial_paths(url: str, folder: Path) -> tuple[Path, Path]:
    """Return where the incomplete file of a URL and its description are kept."""
    stem = hashlib.sha256(url.encode()).hexdigest()[:32]
    return folder / f"{stem}.part", folder / f"{stem}.json"


def discard(url: str, folder: Path) -> None:
    """Remove what an earlier download of this URL left."""
    for path in partial_paths(url, folder):
        path.unlink(missing_ok=True)


def download(  # noqa: PLR0913 - one parameter a concern
    url: str,
    folder: Path,
    *,
    max_bytes: int,
    settings: Settings,
    on_progress: OnProgress,
    retry_command: str,
    resume: bool = True,
) -> Downloaded:
    """Fetch one file into `folder` under a temporary name.

    A broken connection is taken up where it broke (Range with If-Range, so that a file that changed
    meanwhile starts anew), also by a later run: the part on disk is hashed again, and is used only for the
    same URL and a server that still shows the same ETag or Last-Modified. The file stays in `folder` for the
    caller to verify and to move or `discard`.

    Args:
        url: https, http or file.
        folder: private folder for incomplete files.
        max_bytes: a longer file is refused.
        settings: limits.
        on_progress: called with every chunk.
        retry_command: named in messages.
        resume: whether a part left by an earlier run may be used.

    Raises:
        ArtefactError: check "download", "size" or "disk space"; after the latter two nothing is left.
    """
    part, description = partial_paths(url, folder)
    if not resume:
        discard(url, folder)
    keep = False
    try:
        with _disk_errors(url), _open_private(part) as stream:
            state = _State(path=part, stream=stream)
            try:
                if urlsplit(url).scheme == "file":
                    _copy(url, state, max_bytes, on_progress)
                else:
                    _recall(state, description, url, max_bytes)
                    _transfer(url, state, description, max_bytes, settings, on_progress, retry_command)
            except ArtefactError as error:
                # A part is worth keeping only when the network failed, and when it can be resumed.
                keep = error.check == "download" and state.validator is not None and state.done > 0
                raise
            stream.flush()
            if resume:  # what only passes through memory need not survive a crash
                os.fsync(stream.fileno())
            keep = True
    except KeyboardInterrupt:
        keep = description.exists()
        raise
    finally:
        if not keep:
            discard(url, folder)
    description.unlink(missing_ok=True)
    on_progress(Progress(kind="done", file=_shown(url), done_bytes=state.done, total_bytes=state.done))
    return Downloaded(
        path=part, sha512=state.sha512.hexdigest(), sha256=state.sha256.hexdigest(), size_bytes=state.done
    )


def download_bytes(
    url: str, folder: Path, *, max_bytes: int, settings: Settings, retry_command: str
) -> bytes:
    """Fetch a small file, such as a signature, into memory.

    Raises:
        ArtefactError: as `download`.
    """
    result = download(
        url,
        folder,
        max_bytes=max_bytes,
        settings=settings,
        on_progress=ignore_progress,
        retry_command=retry_command,
        resume=False,
    )
    try:
        return result.path.read_bytes()
    finally:
        discard(url, folder)


def _copy(url: str, state: _State, max_bytes: int, on_progress: OnProgress) -> None:
    source = Path(unquote(urlsplit(url).path))
    remedy = f"put the file at {source}, or correct the URL"
    try:
        stream = source.open("rb")
    except OSError as error:
        problem = error.strerror or str(error)
        raise ArtefactError("download", url, f"cannot be opened: {problem}", remedy=remedy) from None
    with stream:
        if not source.is_file():
            raise ArtefactError("download", url, "is not a regular file", remedy=remedy)
        state.total = os.fstat(stream.fileno()).st_size
        _check_size(url, state.total, max_bytes)
        _check_space(url, state)
        while True:
            try:
                data = stream.read(CHUNK_BYTES)
            except OSError as error:
                raise ArtefactError("download", url, f"cannot be read: {error}", remedy=remedy) from None
            if not data:
                break
            _check_size(url, state.done + len(data), max_bytes)
            state.take(data)
            on_progress(_advance(url, state))


def _transfer(  # noqa: PLR0913, PLR0917 - private, and called once
    url: str,
    state: _State,
    description: Path,
    max_bytes: int,
    settings: Settings,
    on_progress: OnProgress,
    retry_command: str,
) -> None:
    end = time.monotonic() + settings.total_timeout_s
    problem = ""
    for attempt in range(settings.attempts):
        if attempt:
            wait = min(settings.backoff_max_s, settings.backoff_s * 2 ** (attempt - 1))
            # Jitter keeps many hosts from coming back at the same instant; it guards nothing.
            wait *= 0.5 + random.random()  # noqa: S311
            message = f"{problem}; attempt {attempt + 1} of {settings.attempts} in {wait:.1f} s"
            on_progress(Progress(kind="note", file=_shown(url), message=message))
            settings.sleep(wait)
        try:
            _attempt(url, state, description, max_bytes, settings, on_progress, end)
        except _TryAgainError as error:
            problem = str(error)
        except (requests.RequestException, HTTPError) as error:
            problem = f"connection failed ({_reason(error)})"
        else:
            return
        if time.monotonic() > end:
            problem += f"; time limit of {settings.total_timeout_s:g} s reached"
            break
    total = f" of {state.total}" if state.total is not None else ""
    raise ArtefactError(
        "download",
        url,
        f"gave up after {attempt + 1} attempts; the last: {problem}",
        expected=f"{state.total} bytes" if state.total is not None else "the whole file",
        found=f"{state.done}{total} bytes",
        remedy=f"check the network and the address, then run `{retry_command}` again",
    )


def _attempt(  # noqa: PLR0913, PLR0917 - private, and called once
    url: str,
    state: _State,
    description: Path,
    max_bytes: int,
    settings: Settings,
    on_progress: OnProgress,
    end: float,
) -> None:
    if state.done and (state.validator is None or state.done == state.total):
        state.restart()
    # Packed transfer would make sizes and ranges mean something else.
    headers = {"Accept-Encoding": "identity", "User-Agent": "layer1"}
    if state.done:
        headers |= {"Range": f"bytes={state.done}-", "If-Range": str(state.validator)}
    with _request(url, headers, settings) as response:
        _check_status(url, response)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _TryAgainError("the server packs the transfer, though asked not to")
        if response.status_code == 206:
            _check_range(response, state)
        else:
            state.restart()
            length = response.headers.get("Content-Length", "")
            state.total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
            state.validator = _validator(response)
        if state.total is not None:
            _check_size(url, state.total, max_bytes)
        _check_space(url, state)
        _remember(state, description, url)
        for data in response.raw.stream(CHUNK_BYTES, decode_content=False):
            _check_size(url, state.done + len(data), max_bytes)
            state.take(data)
            on_progress(_advance(url, state))
            if time.monotonic() > end:
                raise _TryAgainError("too slow")
    if state.total is not None and state.done != state.total:
        raise _TryAgainError(f"connection ended after {state.done} of {state.total} bytes")


@contextlib.contextmanager
def _request(url: str, headers: dict[str, str], settings: Settings) -> Iterator[requests.Response]:
    """Follow redirects by hand: never from https down to http, and never to another scheme."""
    here = url
    for _ in range(_MAX_REDIRECTS + 1):
        # A session for each: a connection that is used again may be one that the server has just closed.
        with (
            requests.Session() as session,
            session.get(
                here,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(settings.connect_timeout_s, settings.read_timeout_s),
            ) as response,
        ):
            if response.status_code not in _REDIRECTS:
                yield response
                return
            there = urljoin(here, response.headers.get("Location", ""))
        schemes = urlsplit(here).scheme, urlsplit(there).scheme
        if schemes[1] not in {"http", "https"} or schemes == ("https", "http"):
            raise ArtefactError(
                "download",
                url,
                "the server redirects to a weaker address",
                expected=f"{schemes[0]}://…",
                found=there,
                remedy="use another mirror",
            )
        here = there
    raise ArtefactError(
        "download",
        url,
        "the server redirects without end",
        expected=f"at most {_MAX_REDIRECTS} redirects",
        found=here,
        remedy="use another mirror",
    )


def _check_status(url: str, response: requests.Response) -> None:
    code = response.status_code
    if code in {200, 206}:
        return
    if code in _RETRIED:
        raise _TryAgainError(f"the server answered HTTP {code}")
    if code == 416:
        raise _TryAgainError("the server has another file now (HTTP 416)")
    raise ArtefactError(
        "download",
        url,
        "the server does not give the file",
        expected="HTTP 200",
        found=f"HTTP {code}",
        remedy="check the version, architecture, flavour and address: is the file published there?",
    )


def _check_range(response: requests.Response, state: _State) -> None:
    match = re.fullmatch(
        r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", response.headers.get("Content-Range", "").strip()
    )
    changed = _validator(response) not in {None, state.validator}
    if (
        match is None
        or changed
        or int(match[1]) != state.done
        or (state.total is not None and int(match[3]) != state.total)
    ):
        state.restart()
        raise _TryAgainError("the server continued with another file")
    state.total = int(match[3])


def _validator(response: requests.Response) -> str | None:
    """Return a strong ETag, else Last-Modified; a weak ETag does not promise the same bytes."""
    etag = response.headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]*"', etag):
        return etag
    return response.headers.get("Last-Modified") or None


def _recall(state: _State, description: Path, url: str, max_bytes: int) -> None:
    """Take up a part left by an earlier run; its bytes are hashed again, none is taken on trust."""
    try:
        known = json.loads(description.read_text(encoding="utf-8"))
        usable = (
            known["url"] == url
            and isinstance(known["validator"], str)
            and re.fullmatch(r"[\x20-\x7e]{1,200}", known["validator"]) is not None
            and (known["total"] is None or (type(known["total"]) is int and known["total"] > 0))
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        usable = False
    size = state.path.stat().st_size
    if not usable or size > max_bytes or (known["total"] is not None and size > known["total"]):
        state.restart()
        return
    while data := state.stream.read(CHUNK_BYTES):
        state.sha512.update(data)
        state.sha256.update(data)
        state.done += len(data)
    state.total, state.validator = known["total"], known["validator"]


def _remember(state: _State, description: Path, url: str) -> None:
    if state.validator is None:
        description.unlink(missing_ok=True)
        return
    text = json.dumps({"url": url, "validator": state.validator, "total": state.total})
    with _open_private(description) as stream:
        stream.truncate()
        stream.write(text.encode())


def _open_private(path: Path) -> IO[bytes]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "r+b")


@contextlib.contextmanager
def _disk_errors(url: str) -> Iterator[None]:
    try:
        yield
    except requests.RequestException:
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ArtefactError(
                "disk space",
                url,
                f"the disk became full while it was written ({error.strerror}); what was written is removed",
                remedy="free room, or choose another cache with --cache, then run the command again",
            ) from None
        raise ArtefactError(
            "cache", error.filename or url, f"cannot be written: {error}", remedy="check the cache folder"
        ) from None


def _check_space(url: str, state: _State) -> None:
    free = shutil.disk_usage(state.path.parent).free
    needed = (state.total or 0) - state.done
    # Half of a small disk must not be called full: the reserve is for large files only.
    reserve = _RESERVE_BYTES if needed > _RESERVE_BYTES else 0
    if needed + reserve > free:
        raise ArtefactError(
            "disk space",
            url,
            "the cache's disk is too full for it",
            expected=f"{needed + reserve} bytes free",
            found=f"{free} bytes free at {state.path.parent}",
            remedy="free room, or choose another cache with --cache, then run the command again",
        )


def _check_size(url: str, size: int, limit: int) -> None:
    if size > limit:
        raise ArtefactError(
            "size",
            url,
            "larger than such a file can be",
            expected=f"at most {limit} bytes",
            found=f"{size} bytes or more",
            remedy="check the address: this is not the file",
        )


def _advance(url: str, state: _State) -> Progress:
    return Progress(kind="advance", file=_shown(url), done_bytes=state.done, total_bytes=state.total)


def _shown(url: str) -> str:
    return unquote(urlsplit(url).path).rsplit("/", 1)[-1]


def _reason(error: BaseException) -> str:
    """Return the innermost words of a network error, without object addresses."""
    # requests wraps urllib3, whose last retry wraps what happened.
    inner = getattr(error.args[0], "reason", None) if error.args else None
    text = re.sub(r"<[^<>]*>(: )?", "", str(inner or error)).strip(" ()'\"")
    return f"{type(error).__name__}: {text}"[:200]
