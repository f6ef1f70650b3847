"""Files that are open already."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pyarrow as pa


def read_file(file: Any) -> tuple[Path, pa.Buffer | None]:
    """The name of an open file, and all its bytes unless the name leads to the same file.

    Raises:
        TypeError: It is a text file, or one that can't seek.
    """
    if isinstance(file, io.TextIOBase):
        raise TypeError("the file is open as text. Open it with mode 'rb'.")
    if not (hasattr(file, "seekable") and file.seekable()):
        raise TypeError(
            "the file can't seek. Read it first, and hand over io.BytesIO(file.read())."
        )
    name = getattr(file, "name", None)
    path = Path(name) if isinstance(name, (str, os.PathLike)) else Path("open file")
    if _is_at(file, path):
        return path, None
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError("the file is open as text. Open it with mode 'rb'.")
    return path, pa.py_buffer(data)


def _is_at(file: Any, path: Path) -> bool:
    """Whether reading the path gives the file's own bytes: not so of one that decompresses."""
    if not isinstance(file, (io.FileIO, io.BufferedReader, io.BufferedRandom)):
        return False
    try:
        status = os.fstat(file.fileno())
        return path.is_file() and os.path.samestat(status, path.stat())
    except (OSError, AttributeError, ValueError):
        return False
