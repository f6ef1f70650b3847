"""SHA-256 of a dataset's files."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from arrowquant._checkpoint.records import Part


class Digests:
    """The SHA-256 of the dataset's files, computed a unit ahead of who asks for it."""

    def __init__(self, thread: ThreadPoolExecutor, dataset: Path, parts: list[Part]) -> None:
        self._thread, self._dataset, self._parts = thread, dataset, iter(parts)
        self._pending: dict[str, Future[str]] = {}
        self._next = -1

    def of(self, part: Part, path: str) -> str:
        """A file's digest."""
        while self._next <= part.unit:
            following = next(self._parts, None)
            if following is None:
                break
            self._next = following.unit
            for file in following.files:
                if (self._dataset / file.path).is_file():
                    self._pending[file.path] = self._thread.submit(
                        digest_of, self._dataset / file.path
                    )
        known = self._pending.pop(path, None)
        return digest_of(self._dataset / path) if known is None else known.result()


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
