"""`aq.scan`: checkpoints on disk as streams of the weights relation.

A file is one scan, a directory or an index of shards many in a row. Each tells its *pieces*, the
smallest stretches that can be read on their own, so that a job can do them one by one.
"""

from __future__ import annotations

import os
from pathlib import Path

from arrowquant._scan.base import PART_BYTES, Files, Piece, Scan, Setup, missing_key
from arrowquant._scan.safetensors import SafetensorsScan
from arrowquant._scan.shards import ManyScan, directory, from_index
from arrowquant._scan.tables import IpcScan, ParquetScan

__all__ = ["PART_BYTES", "Files", "ManyScan", "Piece", "Scan", "missing_key", "scan"]

_KINDS: dict[str, type[Scan]] = {
    ".safetensors": SafetensorsScan,
    ".parquet": ParquetScan,
    ".arrow": IpcScan,
    ".feather": IpcScan,
    ".ipc": IpcScan,
}
_INDEX = ".safetensors.index.json"


def scan(
    source: str | os.PathLike[str], *, mmap: bool = True, part_bytes: int = PART_BYTES
) -> Scan:
    """Return the weights of a checkpoint as a lazy Arrow stream, which reopens at each use.

    Args:
        source: A safetensors file (`.safetensors`), a Parquet file (`.parquet`) or an Arrow IPC
            file (`.arrow`, `.feather`, `.ipc`); a directory of files of one of these kinds, read
            in the order of their names; a directory with `model.safetensors.index.json`, or that
            file, read in its order; or a dataset that `aq.quantize_checkpoint` wrote, whose
            quantized relation comes as it is.
        mmap: Map files rather than read them: safetensors and uncompressed IPC data then come
            without a copy, and pages that are never touched are never read. A mapped file that
            is cut short meanwhile kills the process (SIGBUS); `mmap=False` avoids that, and reads
            in blocks.
        part_bytes: A layer of more bytes comes as several rows, cut on the rows of its tensor.

    Returns:
        A `Scan`: columns `layer_name, dtype, shape, data, part_index, part_count, part_offset,
        layer_shape, source_file`. A shard or tensor that the index names and that is not there
        comes as a row with the error `source_unreadable`. Files that hold other columns keep
        theirs, and a quantized relation comes as it was written.

    Raises:
        OSError: A file can't be read, or its header contradicts itself.
        ValueError: The kind of a file can't be told from its name, or a directory holds several.
    """
    path = Path(source)
    setup = Setup(mmap=mmap, part_bytes=part_bytes)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory.")
    if path.is_dir():
        from arrowquant._checkpoint import manifest

        if manifest.exists(path):
            from arrowquant._checkpoint.dataset import Dataset

            return Dataset(path, setup)
        indices = sorted(path.glob(f"*{_INDEX}"))
        if len(indices) > 1:
            names = ", ".join(index.name for index in indices)
            raise ValueError(f"{path}: several indices, {names}. Name the one to read.")
        return from_index(indices[0], setup) if indices else directory(path, setup, _KINDS)
    if path.name.endswith(_INDEX):
        return from_index(path, setup)
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"{path}: unknown kind of file. aq.scan reads {', '.join(_KINDS)}, directories of "
            f"these, and *{_INDEX}."
        )
    return kind(path, setup)
