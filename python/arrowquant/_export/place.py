"""A directory that gets its name once all is in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from arrowquant._files import check_output

_MARK = ".arrowquant-export"
"""A file in each exported directory, so that nothing else is ever replaced."""


@contextmanager
def new_directory(
    destination: Path, *, overwrite: bool, apart_from: Sequence[Path]
) -> Iterator[Path]:
    """A directory to fill, which then takes the name `destination`.

    What a killed call left is removed first.

    Raises:
        OSError: The destination exists, and is no earlier export or must not be replaced; another
            call works on it; or it can't be made.
        ValueError: It is, holds or lies in one of the directories that are read.
    """
    from filelock import FileLock, Timeout  # Slow to import.

    check_apart(destination, apart_from)
    check_parent(destination)
    temporary, old = (destination.with_name(f".{destination.name}.{n}") for n in ("new", "old"))
    lock = FileLock(destination.with_name(f".{destination.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(f"{destination}: another export writes it. Wait for it.") from error
    try:
        if _is_ours(old) and not destination.exists():
            old.replace(destination)  # Killed between the two renames.
        _check_free(destination, overwrite=overwrite)
        for left in (temporary, old):
            _remove_ours(left)
        temporary.mkdir()
        (temporary / _MARK).touch()
        yield temporary
        if destination.exists():
            destination.replace(old)
        temporary.replace(destination)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if _is_ours(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _is_ours(directory: Path) -> bool:
    return (directory / _MARK).is_file()


def _remove_ours(directory: Path) -> None:
    """Remove what a killed call left there; anything else stays."""
    if directory.exists() and not _is_ours(directory):
        raise FileExistsError(f"{directory}: is in the way, and no export. Move it elsewhere.")
    shutil.rmtree(directory, ignore_errors=True)


def check_apart(destination: Path, others: Sequence[Path]) -> None:
    """Refuse what is, holds or lies in something that is read.

    Raises:
        ValueError: It does.
    """
    own = destination.resolve()
    for other in (path.resolve() for path in others):
        if own == other or own in other.parents or (other.is_dir() and other in own.parents):
            raise ValueError(
                f"{destination}: is, holds or lies in {other}, which is read. Name a directory "
                "apart from it."
            )


def _check_free(destination: Path, *, overwrite: bool) -> None:
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not (destination / _MARK).is_file():
        raise FileExistsError(f"{destination}: exists, and is no earlier export. Name another.")
    if not overwrite:
        raise FileExistsError(
            f"{destination}: exists. Name another directory, or replace it with overwrite=True "
            "(--overwrite)."
        )


def check_directory(destination: Path, *, overwrite: bool) -> None:
    """Refuse a directory that can't be made or replaced.

    Raises:
        OSError: It exists and must not be replaced, or its own directory does not exist.
    """
    check_parent(destination)
    _check_free(destination, overwrite=overwrite)


def check_parent(destination: Path) -> None:
    """Refuse a directory in one that does not exist.

    Raises:
        FileNotFoundError: It does not.
    """
    if not destination.absolute().parent.is_dir():
        parent = destination.parent
        raise FileNotFoundError(f"{destination}: the directory {parent} does not exist. Make it.")


def check_file(
    destination: Path, suffix: str, *, overwrite: bool, apart_from: Sequence[Path]
) -> None:
    """Refuse a file that can't be written.

    Raises:
        OSError: It exists and must not be replaced, or its directory does not exist.
        ValueError: It has another suffix, or is one of the files that are read.
    """
    check_output(destination, (suffix,), overwrite=overwrite)
    check_apart(destination, apart_from)
