"""Files of a checkpoint that may be damaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from arrowquant._scan.base import Scan, Setup
from arrowquant._scan.shards import UnreadableScan

_SHOWN = 3


def member_of(
    file: Path, kind: Callable[[Path, Setup], Scan], setup: Setup, names: list[str] | None = None
) -> Scan:
    """A file's scan; of one that can't be read, rows that say why."""
    try:
        if file.exists() and not file.is_file():  # A pipe would wait for ever.
            raise OSError(f"{file}: is no regular file.")
        return kind(file, setup)
    except OSError as error:
        why = _reason(file, error)
        return UnreadableScan(file, setup, names if names is not None else [file.name], why)


def _reason(file: Path, error: OSError) -> str:
    """What is wrong with a file, without its path, and what to do."""
    if not file.exists():
        return "the file is not there. Fetch it, and run again."
    text = str(error).removeprefix(f"{file}: ")
    if isinstance(error, PermissionError) or "ermission denied" in text:
        return f"there is no permission to read the file. Run: chmod u+r {file}"
    end = "" if text.endswith((".", "?")) else "."
    return f"{text}{end} Replace the file, and run again."


def check_readable(members: Sequence[Scan]) -> None:
    """Raise where no file can be read at all.

    Raises:
        OSError: The first one's error.
    """
    if all(isinstance(member, UnreadableScan) for member in members):
        first = members[0]
        assert isinstance(first, UnreadableScan)
        raise first.error


def some_of(names: Sequence[str]) -> str:
    """The first few of many names, for messages."""
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
