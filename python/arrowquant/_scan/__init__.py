"""`aq.scan`: checkpoints on disk as streams of the weights relation.

A file is one scan, a directory or an index of shards many in a row. Each tells its *pieces*, the
smallest stretches that can be read on their own, so that a job can do them one by one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from arrowquant._scan.base import PART_BYTES, Files, Piece, Scan, Setup, missing_key
from arrowquant._scan.directory import (
    directory,
    from_split,
    is_index,
    several,
    split_files,
)
from arrowquant._scan.given import read_file
from arrowquant._scan.index import from_index
from arrowquant._scan.ipc import IpcScan
from arrowquant._scan.numpy import NumpyScan
from arrowquant._scan.onnx import OnnxScan
from arrowquant._scan.parquet import ParquetScan
from arrowquant._scan.recognise import kind_of, unreadable
from arrowquant._scan.resolve import existing_path
from arrowquant._scan.shards import ManyScan
from arrowquant._scan.tensors import TensorScan

__all__ = ["PART_BYTES", "Files", "ManyScan", "Piece", "Scan", "Source", "missing_key", "scan"]

Source = str | os.PathLike[str] | IO[bytes] | Sequence[str | os.PathLike[str]] | Scan

_KINDS: dict[str, type[Scan]] = {
    ".safetensors": TensorScan,
    ".gguf": TensorScan,
    ".parquet": ParquetScan,
    ".arrow": IpcScan,
    ".feather": IpcScan,
    ".ipc": IpcScan,
    ".npz": NumpyScan,
    ".npy": NumpyScan,
    ".onnx": OnnxScan,
}


def scan(
    source: Source,
    *,
    mmap: bool = True,
    part_bytes: int = PART_BYTES,
    variant: str | None = None,
    stack_axis: int | None = None,
) -> Scan:
    """Return the weights of a checkpoint as a lazy Arrow stream, which reopens at each use.

    Args:
        source: One of these. A file: safetensors (`.safetensors`), GGUF (`.gguf`), Parquet
            (`.parquet`), Arrow IPC (`.arrow`, `.feather`, `.ipc`, as a file or as a stream), NumPy
            (`.npz`, `.npy`), ONNX (`.onnx`, with the files of numbers that it names). A directory
            of files of one of these kinds: what its `model.safetensors.index.json` lists, a
            numbered set (`-00001-of-00003`), or all files in the order of their names. Such an
            index. A dataset that `aq.quantize_checkpoint` wrote, whose quantized relation comes as
            it is. A model of the Hugging Face Hub, `org/name`, or its directory in the Hub's cache
            (with `pip install 'arrowquantize[hub]'`). A list of files. An open file (`rb`), which
            is read into memory unless it has a path.
        mmap: Map files rather than read them: safetensors, GGUF and uncompressed IPC data then
            come without a copy, and pages that are never touched are never read. A mapped file
            that is cut short meanwhile kills the process (SIGBUS); `mmap=False` avoids that, and
            reads in blocks.
        part_bytes: A layer of more bytes, counted as float32 where these are more, comes as
            several rows, cut on the rows of its tensor.
        variant: Which checkpoint of a directory that holds several, such as `fp16` for
            `model.fp16.safetensors`, or `consolidated`. The error that asks for it lists them.
        stack_axis: How stacks of experts lie whose layout neither the model's type nor shapes tell:
            -1 for `[E, out, in]`, -2 for `[E, in, out]`.

    Returns:
        A `Scan`: columns `layer_name, dtype, shape, data, part_index, part_count, part_offset,
        layer_shape, source_file`; what the tensor means, `role, keep_reason, companion_of`; and
        for the matrices of stacks of experts, one row each, `stack_name, stack_index, stack_shape,
        stack_axis`; and `packed` for weights that are quantized already and can be decoded: they
        are one row with their scales, whose tensors have no rows of their own. A layer whose file
        is missing, damaged or not to be read comes as a row with the error `source_unreadable`.
        Files that hold other columns keep theirs, and a quantized relation comes as it was written.
        `scan["a layer's name"]` is that layer as a NumPy array.

    Raises:
        OSError: A file can't be read, or its header contradicts itself.
        ValueError: The kind of a file can't be told from its name, or a directory holds several
            kinds or several checkpoints.
        TypeError: It is no path, nor an open file.

    Warns:
        QuantizationWarning: A file can't be mapped and is read instead; an index does not list all
            tensors, or says another size.
    """
    if isinstance(source, Scan):
        return source
    setup = Setup(mmap, part_bytes, variant, stack_axis)
    if isinstance(source, (list, tuple)):
        return several([_scan_one(one, setup) for one in source], setup)
    return _scan_one(source, setup)


def _scan_one(source: Any, setup: Setup) -> Scan:
    if isinstance(source, Scan):
        return source
    if hasattr(source, "read"):
        return _open_file(source, setup)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "scan takes a path, a list of paths, or a file opened with 'rb', got "
            f"{type(source).__name__}."
        )
    path = existing_path(source)
    if path.is_dir():
        return _directory(path, setup)
    if is_index(path):
        return from_index(path, setup)
    kind = _kind(path)
    if path.suffix.lower() == ".gguf" and len(files := split_files(path)) > 1:
        return from_split(files, setup)
    return kind(path, setup)


def _directory(path: Path, setup: Setup) -> Scan:
    from arrowquant._checkpoint import manifest

    if manifest.exists(path):
        from arrowquant._checkpoint.dataset import Dataset

        return Dataset(path, setup)
    return directory(path, setup, _KINDS)


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
