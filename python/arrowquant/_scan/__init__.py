"""`aq.scan`: checkpoints on disk as streams of the weights relation.

A file is one scan, a directory or an index of shards many in a row. Each tells its *pieces*, the
smallest stretches that can be read on their own, so that a job can do them one by one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from arrowquant._files import user_path
from arrowquant._scan.base import PART_BYTES, Files, Piece, Scan, Setup, missing_key
from arrowquant._scan.given import read_file
from arrowquant._scan.numpy import NumpyScan
from arrowquant._scan.recognise import INDEX, check_exists, kind_of, unreadable
from arrowquant._scan.safetensors import SafetensorsScan
from arrowquant._scan.shards import ManyScan, directory, from_index, several
from arrowquant._scan.tables import IpcScan, ParquetScan

__all__ = ["PART_BYTES", "Files", "ManyScan", "Piece", "Scan", "Source", "missing_key", "scan"]

Source = str | os.PathLike[str] | IO[bytes] | Sequence[str | os.PathLike[str]] | Scan

_KINDS: dict[str, type[Scan]] = {
    ".safetensors": SafetensorsScan,
    ".parquet": ParquetScan,
    ".arrow": IpcScan,
    ".feather": IpcScan,
    ".ipc": IpcScan,
    ".npz": NumpyScan,
    ".npy": NumpyScan,
}


def scan(source: Source, *, mmap: bool = True, part_bytes: int = PART_BYTES) -> Scan:
    """Return the weights of a checkpoint as a lazy Arrow stream, which reopens at each use.

    Args:
        source: One of these. A file: safetensors (`.safetensors`), Parquet (`.parquet`), Arrow IPC
            (`.arrow`, `.feather`, `.ipc`, as a file or as a stream), NumPy (`.npz`, `.npy`). A
            directory of files of one of these kinds, read in the order of their names; a directory
            with `model.safetensors.index.json`, or that file, read in its order; a dataset that
            `aq.quantize_checkpoint` wrote, whose quantized relation comes as it is. A list of
            files. An open file (`rb`), which is read into memory unless it has a path.
        mmap: Map files rather than read them: safetensors and uncompressed IPC data then come
            without a copy, and pages that are never touched are never read. A mapped file that
            is cut short meanwhile kills the process (SIGBUS); `mmap=False` avoids that, and reads
            in blocks.
        part_bytes: A layer of more bytes comes as several rows, cut on the rows of its tensor.

    Returns:
        A `Scan`: columns `layer_name, dtype, shape, data, part_index, part_count, part_offset,
        layer_shape, source_file`. A shard or tensor that the index names and that is not there
        comes as a row with the error `source_unreadable`. Files that hold other columns keep
        theirs, and a quantized relation comes as it was written. `scan["a layer's name"]` is that
        layer as a NumPy array.

    Raises:
        OSError: A file can't be read, or its header contradicts itself.
        ValueError: The kind of a file can't be told from its name, or a directory holds several.
        TypeError: It is no path, nor an open file.
    """
    if isinstance(source, Scan):
        return source
    setup = Setup(mmap=mmap, part_bytes=part_bytes)
    if isinstance(source, (list, tuple)):
        return several([scan(one, mmap=mmap, part_bytes=part_bytes) for one in source], setup)
    if hasattr(source, "read"):
        return _open_file(source, setup)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "scan takes a path, a list of paths, or a file opened with 'rb', got "
            f"{type(source).__name__}."
        )
    check_exists(source)
    path = user_path(source)
    if path.is_dir():
        return _directory(path, setup)
    if path.name.endswith(INDEX):
        return from_index(path, setup)
    return _kind(path)(path, setup)


def _directory(path: Path, setup: Setup) -> Scan:
    from arrowquant._checkpoint import manifest

    if manifest.exists(path):
        from arrowquant._checkpoint.dataset import Dataset

        return Dataset(path, setup)
    indices = sorted(path.glob(f"*{INDEX}"))
    if len(indices) > 1:
        names = ", ".join(index.name for index in indices)
        raise ValueError(f"{path}: several indices, {names}. Name the one to read.")
    return from_index(indices[0], setup) if indices else directory(path, setup, _KINDS)


def _kind(path: Path) -> type[Scan]:
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(unreadable(path, _KINDS))
    return kind


def _open_file(file: Any, setup: Setup) -> Scan:
    """A file that is open: by its path where it has one, else by its bytes."""
    path, given = read_file(file)
    if given is None:
        return _kind(path)(path, setup)
    suffix = path.suffix.lower() if path.suffix.lower() in _KINDS else kind_of(given)
    if suffix is None:
        raise ValueError(unreadable(path, _KINDS))
    return _KINDS[suffix](path, setup, given)
