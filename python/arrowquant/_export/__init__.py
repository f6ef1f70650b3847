"""`aq.export`: a quantized checkpoint as a directory that a runtime loads.

`shards` writes tensors into safetensors files of bounded size with their index; what is in them is
the business of a file for each format.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from arrowquant import _core
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._export import formats, place, planning
from arrowquant._export.companions import copy_companions
from arrowquant._export.formats.base import How, Model
from arrowquant._export.layers import Layers
from arrowquant._export.requantized import forget_source_codes
from arrowquant._export.ties import untie_head
from arrowquant._files import refuse_url, user_path
from arrowquant._model import Config, read_config
from arrowquant._options import Target
from arrowquant._progress import ProgressCallback
from arrowquant._scan import Scan, scan

DEFAULT = "compressed-tensors"
SHARD_BYTES = 5_000_000_000
"""As transformers' own."""


def export(
    quantized: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    to: Target = "compressed-tensors",
    source: str | os.PathLike[str] | None = None,
    decode: Sequence[str] = (),
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
) -> Path:
    """Write a quantized checkpoint as the directory or file that a runtime loads.

    The directory gets its name once all is in it. The source's other files (configuration,
    tokenizer) are copied.

    Args:
        quantized: A dataset or a Parquet file that was written here.
        destination: The directory or file to make.
        to: The format; docs/runtimes.md says what each writes. `compressed-tensors`: codes, scales
            and zero points as vLLM and transformers load them, kept layers as they were, and a
            `quantization_config` in `config.json`. `safetensors`: every layer decoded, in its own
            type. `gguf` writes a file; `onnx` and `onnx-qdq` a file where the name ends with
            `.onnx`, else a directory.
        source: Where the source's other files are; None: where a dataset says that it came from.
        decode: Shell patterns of names of layers to write decoded, in their own type, though they
            are quantized.
        shard_bytes: A file holds at most so many bytes of tensors, or one layer.
        overwrite: Replace an earlier export. What is none is never replaced.
        threads: As for `aq.quantize`.
        progress: True for a bar, or `callback(layer_name, fraction)`.

    Returns:
        The directory or file.

    Raises:
        ValueError: The checkpoint is not whole: units are not finished, or layers failed; or the
            format can't hold some of its layers. The message names them and says what to do.
        OSError: A file can't be read or written.

    Warns:
        QuantizationWarning: There is no `config.json` to say it in; layers that vLLM puts
            together are quantized differently; or the head is no longer the table of embeddings
            that `config.json` ties it to, and the export unties them.
    """
    form = formats.find(to)
    path = user_path(quantized)
    refuse_url(Path(destination))
    relation, destination = scan(path), user_path(destination).resolve()
    layers = Layers.of(relation, path, decode)
    origin = _origin(relation, source)
    if not layers.layers:
        raise ValueError(f"{path}: has no layers, so there is nothing to export.")
    how = How(shard_bytes, overwrite, threads, progress)
    apart_from = [path, *([origin] if origin else [])]
    if form.suffix is not None:
        model = Model(relation, layers, Config(), origin)
        if form.is_file(destination):
            place.check_file(destination, form.suffix, overwrite=overwrite, apart_from=apart_from)
            form.check_beside(destination, origin, overwrite=overwrite)
            form.write(model, planning.plan(form, model), destination, how)
            return destination
        found = planning.plan(form, model)
        name = f"model{form.suffix}" if origin is None or origin.is_dir() else origin.name
        with place.new_directory(
            destination, overwrite=overwrite, apart_from=apart_from
        ) as temporary:
            copy_companions(origin, temporary)
            form.write(model, found, temporary / name, how)
        return destination
    _check_types(layers)
    folder = origin if origin is None or origin.is_dir() else origin.parent
    model = Model(relation, layers, Config() if folder is None else read_config(folder), origin)
    found = planning.plan(form, model)
    with place.new_directory(destination, overwrite=overwrite, apart_from=apart_from) as temporary:
        copy_companions(origin, temporary)
        forget_source_codes(layers, temporary)
        untie_head(relation, layers, temporary)
        form.write(model, found, temporary, how)
    return destination


def check_destination(
    destination: Path, form: formats.Format, *, overwrite: bool, apart_from: Sequence[Path]
) -> None:
    """Refuse a place that an export can't take, before anything is done for it.

    Raises:
        OSError, ValueError: As `export`.
    """
    refuse_url(destination)
    if form.suffix is not None and form.is_file(destination):
        place.check_file(destination, form.suffix, overwrite=overwrite, apart_from=apart_from)
        form.check_beside(destination, apart_from[0] if apart_from else None, overwrite=overwrite)
    else:
        place.check_directory(destination, overwrite=overwrite)
        place.check_apart(destination, apart_from)


def is_exportable(dataset: Path) -> bool:
    """Whether `export` writes a finished dataset as it is, in its default format."""
    relation = scan(dataset)
    model = Model(relation, Layers.of(relation, dataset, ()), Config(), None)
    try:
        planning.plan(formats.find(DEFAULT), model)
    except ValueError:
        return False
    return True


def _check_types(layers: Layers) -> None:
    """Refuse types that safetensors does not have.

    Raises:
        ValueError: A kept layer is one of GGUF's types of blocks.
    """
    blocks = [x for x in layers.layers if x.decoded and _core.dtype_bytes(x.dtype, 1) is None]
    foreign = [x for x in blocks if _core.dtype_bytes(x.dtype, 8) is None]
    if foreign:
        first = foreign[0]
        more = f", and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise ValueError(
            f"layer '{first.name}' ({first.dtype}{more}) is kept in a GGUF type of blocks, which "
            "safetensors does not have. Write GGUF: to='gguf' (--to gguf)."
        )


def _origin(relation: Scan, source: str | os.PathLike[str] | None) -> Path | None:
    """The source's directory, or its one file."""
    if source is None:
        return relation.source if isinstance(relation, Dataset) else None
    path = user_path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or directory.")
    return path
