"""The directory that a dataset goes to, and who works on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from arrowquant._checkpoint import manifest as manifests
from arrowquant._files import refuse_url
from arrowquant._scan import PART_BYTES

_LOCK = ".lock"


def known_setup(
    destination: Path | None,
    *,
    overwrite: bool,
    mmap: bool,
    part_bytes: int | None,
    variant: str | None,
    stack_axis: int | None,
) -> dict[str, Any]:
    """How a source is to be read: as asked, else as the dataset was begun with, else as usual."""
    known: dict[str, Any] = {}
    if destination is not None and not overwrite and manifests.exists(destination):
        known = manifests.load(destination).settings
    return {
        "mmap": mmap,
        "part_bytes": known.get("part_bytes", PART_BYTES) if part_bytes is None else part_bytes,
        "variant": known.get("variant") if variant is None else variant,
        "stack_axis": known.get("stack_axis") if stack_axis is None else stack_axis,
    }


def make_directory(destination: Path) -> bool:
    """Make the directory, or see that it is empty or a dataset, or what a killed job left of one.

    Returns:
        Whether it was made.

    Raises:
        OSError, ValueError: It is neither, or its own directory does not exist.
    """
    refuse_url(destination)
    if destination.exists() and not destination.is_dir():
        raise NotADirectoryError(f"{destination}: is a file. Name a directory.")
    if destination.is_dir() and not manifests.exists(destination):
        strange = manifests.strangers(destination)
        if strange:
            raise ValueError(
                f"{destination}: holds {strange[0]}, but no dataset. Name an empty directory, or "
                "one that does not exist."
            )
    if not destination.parent.is_dir():
        parent = destination.parent
        raise FileNotFoundError(f"{destination}: the directory {parent} does not exist. Make it.")
    is_new = not destination.exists()
    destination.mkdir(exist_ok=True)
    return is_new


def remove_empty(destination: Path) -> None:
    """Remove the directory if it holds nothing but the caller's lock: the call was wrong."""
    with suppress(OSError):
        if all(path.name == _LOCK for path in destination.iterdir()):
            (destination / _LOCK).unlink(missing_ok=True)
            destination.rmdir()


@contextmanager
def locked(destination: Path) -> Iterator[None]:
    """One job at a time. The operating system lets go of the lock of a process that dies."""
    from filelock import FileLock, Timeout  # Slow to import.

    lock = FileLock(destination / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"{destination}: another job works on it. Wait for its end, or name another directory."
        ) from error
    try:
        yield
    finally:
        lock.release()
