"""Files that are written: nothing is replaced unasked, and a name is given to whole files only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arrowquant import _core


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path that a user named, whose `~` is the home directory."""
    return Path(path).expanduser()


def refuse_url(path: Path) -> None:
    """Refuse to write to a URL; a Path has but one of its two slashes left.

    Raises:
        ValueError: It is one.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ValueError(f"{path}: is a URL, and files are written locally. Copy them afterwards.")


def check_output(path: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> None:
    """Refuse a file that is there, or whose name says that it holds something else.

    What killed processes left beside it is removed.

    Raises:
        OSError: There is something of that name, or no directory for it.
        ValueError: The suffix is none of `suffixes`.
    """
    refuse_url(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory. Name a file in it.")
    if path.suffix.lower() not in suffixes:
        kinds = " or ".join(suffixes)
        raise ValueError(
            f"{path}: what is written here is {kinds}. Name it so, such as "
            f"{path.with_suffix(suffixes[0]).name}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the directory {path.parent} does not exist. Make it.")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise exists_error(path)
    _core.remove_abandoned(path)


def exists_error(path: Path) -> FileExistsError:
    """The error of a file that must not be replaced."""
    return FileExistsError(
        f"{path}: exists. Name another file, or replace it with overwrite=True (--overwrite)."
    )


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, which is gone at the end."""
    temporary = _core.Temporary(path)
    try:
        yield temporary.path
    finally:
        temporary.drop()


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary name beside `path` to write to, which takes its place at the end.

    Raises:
        FileExistsError: There is a file by then, and `overwrite` is off.
    """
    temporary = _core.Temporary(path)
    try:
        yield temporary.path
        temporary.commit(overwrite)
    finally:
        temporary.drop()
