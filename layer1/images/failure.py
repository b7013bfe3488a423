"""The one error of this package: which check failed, for which file, and the way out."""

from __future__ import annotations

from layer1.errors import ImageError


class ArtefactError(ImageError):
    """A check on an artefact failed; nothing of it is used.

    Attributes:
        check: name of the check, one of "arguments", "cache", "digests", "disk space", "download",
            "format", "key", "lock", "lock file", "manifest", "pinned digest", "signature", "size", "tool",
            "unpinned", "version".
        file: the file or URL that was checked.
        expected: what would have passed, or None where the problem says it all.
        found: what was there instead, or None.
        remedy: what the operator can do.
    """

    def __init__(  # noqa: PLR0913 - each is one line of the message
        self,
        check: str,
        file: str,
        problem: str,
        *,
        expected: object = None,
        found: object = None,
        remedy: str,
    ) -> None:
        self.check = check
        self.file = file
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        self.remedy = remedy
        lines = [f"{check} check failed for {file}: {problem}"]
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.found is not None:
            lines.append(f"  found:    {self.found}")
        lines.append(f"  way out:  {remedy}")
        super().__init__("\n".join(lines))
