"""`aq.export`: a quantized checkpoint as a directory that a runtime loads.

`shards` writes tensors into safetensors files of bounded size with their index; what is in them is
the business of a file for each format.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from arrowquant._checkpoint.dataset import Dataset
from arrowquant._export import compressed_tensors, plain
from arrowquant._export.companions import copy_companions
from arrowquant._export.layers import Layers
from arrowquant._scan import Scan, scan

FORMATS = ("compressed-tensors", "safetensors")
SHARD_BYTES = 5_000_000_000
"""As transformers' own."""


def export(
    quantized: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    to: str = "compressed-tensors",
    source: str | os.PathLike[str] | None = None,
    decode: Sequence[str] = (),
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    threads: int | None = None,
) -> Path:
    """Write a quantized checkpoint as a directory of safetensors that a runtime loads.

    The directory gets its name once all is in it. The source's other files (configuration,
    tokenizer) are copied.

    Args:
        quantized: A dataset or a Parquet file that was written here.
        destination: The directory to make.
        to: `compressed-tensors`: codes, scales and zero points as vLLM and transformers load them
            (`pack-quantized`), kept layers as they were, and a `quantization_config` in
            `config.json`. `safetensors`: every layer decoded, in its own type.
        source: Where the source's other files are; None: where a dataset says that it came from.
        decode: Shell patterns of names of layers to write decoded, in their own type, though they
            are quantized.
        shard_bytes: A file holds at most so many bytes of tensors, or one layer.
        overwrite: Replace a directory that exists.
        threads: As for `aq.quantize`.

    Returns:
        The directory.

    Raises:
        ValueError: The checkpoint is not whole: units are not finished, or layers failed; or the
            format can't hold some of its layers. The message names them and says what to do.
        OSError: A file can't be read or written.

    Warns:
        QuantizationWarning: There is no `config.json` to say it in; or layers that vLLM puts
            together are quantized differently.
    """
    if to not in FORMATS:
        raise ValueError(f"unknown format {to!r}. Choose one of {', '.join(FORMATS)}.")
    relation, destination = scan(quantized), Path(destination)
    layers = Layers.of(relation, Path(quantized), decode)
    origin = _origin(relation, source)
    _check_destination(destination, overwrite=overwrite)
    temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir(parents=True)
    try:
        copy_companions(origin, temporary)
        if to == "safetensors":
            plain.write(relation, layers, temporary, shard_bytes, threads)
        else:
            compressed_tensors.write(relation, layers, temporary, shard_bytes, threads)
        _replace(destination, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return destination


def _origin(relation: Scan, source: str | os.PathLike[str] | None) -> Path | None:
    """The directory of the source's other files."""
    if source is None:
        if not isinstance(relation, Dataset):
            return None
        source = relation.manifest.source
        if not Path(source).exists():
            return None
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory.")
    return path if path.is_dir() else path.parent


def _check_destination(destination: Path, *, overwrite: bool) -> None:
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not overwrite or not destination.is_dir():
        raise FileExistsError(
            f"{destination}: exists. Name another directory, or replace it with overwrite=True "
            "(--overwrite)."
        )


def _replace(destination: Path, temporary: Path) -> None:
    """Give the new directory its name; an old one is removed after."""
    old = None
    if destination.exists():
        old = destination.with_name(f".{destination.name}.{secrets.token_hex(8)}.old")
        destination.replace(old)
    temporary.replace(destination)
    if old is not None:
        shutil.rmtree(old)
