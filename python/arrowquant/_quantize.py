"""`aq.quantize` and `aq.quantize_stream`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

from arrowquant import _core
from arrowquant._errors import QuantizationWarning
from arrowquant._facts import facts, weighed_of
from arrowquant._importance import Importance, searching
from arrowquant._inputs import Weights, as_weights, is_batch, is_sized
from arrowquant._inputs.arrow import is_path
from arrowquant._options import Options, Scheme, Settings
from arrowquant._plan import answered, read_plan
from arrowquant._progress import ProgressCallback, listener
from arrowquant._result import QuantizationResult
from arrowquant._scan import Scan, scan
from arrowquant._stream import QuantizationStream


def quantize(
    weights: Weights,
    *,
    scheme: Scheme | None = None,
    plan: Any = None,
    importance: Any = None,
    columns: Mapping[str, str] | None = None,
    continue_on_error: bool = False,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
    **settings: Unpack[Settings],
) -> QuantizationResult:
    """Quantize weights; every row comes out exactly once, quantized, kept, or with the reason.

    Args:
        weights: Any of these. A table, frame or stream that speaks the Arrow PyCapsule interface:
            columns `layer_name`, `data` (lists of floats, or bytes with a `dtype` column) and,
            optionally, `shape` and the plan `scheme`, `group_size`, `is_symmetric`; others are
            carried through. A `torch.nn.Module`, whose tied weights come once, under the first
            name, with the others in a column `tied_names`. A mapping of names to contiguous
            arrays (NumPy, torch, JAX, anything with `__dlpack__` or `__array__`), read without a
            copy. A path or an `aq.scan`.
        scheme: What layers become, such as `int8` or `q8_0`, or `none` to keep them as they are;
            `arrowquant.schemes()` lists them. None: `int4`. Like settings, for the rows that
            neither their own plan columns nor `plan` say otherwise of.
        plan: A table of `layer_name`, which may be a pattern (`*`, `?`, `[...]`), `scheme` and
            settings, such as `aq.plan` makes, in any Arrow object, or the path of one in Parquet,
            CSV or JSON. The first row that matches a layer counts. Of a scan's stacks of experts,
            its column `stack_axis` says how they lie, where nothing else tells it.
        columns: What columns of `weights` with other names are to be called here, such as
            `{"name": "layer_name", "weights": "data"}`.
        importance: How much the columns of layers matter to `search="weighted"`: a table
            `layer_name, importance`, a list of floats for each layer, in anything that speaks Arrow
            or in a .parquet file; or an importance matrix of llama.cpp. A row's own column
            `importance` comes first. Where neither `search` nor `plan` is given, the search is
            `weighted`.
        continue_on_error: Whether failed rows are returned rather than raised.
        threads: None: ARROWQUANT_NUM_THREADS, else OMP_NUM_THREADS, else all cores. The result
            does not depend on it.
        progress: True for a bar, or `callback(layer_name, fraction)`.
        settings: How layers are quantized; None: the scheme's default. `group_size`: elements of a
            row that share a scale, -1 for all of a row. `group_rows`: rows that share a scale, -1
            for all of a matrix. `symmetric`: whether zero is the middle code. `scale_dtype`: what
            scales are rounded to, `source` (F16 or BF16 as the weights, else F32), `F32`, `F16` or
            `BF16`. `signed_scales`: whether the scales of symmetric integers may be negative, which
            loses less, for runtimes that take it (ONNX Runtime). `search`: how scales are chosen,
            `none`: from each group's extremes; `mse`: for the least squared error; `weighted`: the
            same, each error times how much its column matters, which a column `importance` says (a
            list of floats for each layer), or where it says nothing, the weights themselves.

    Returns:
        The quantized relation and its error table, row for row.

    Raises:
        QuantizationError: A row failed and `continue_on_error` is off; `.failed` is a table.
        TypeError, ValueError: The call is wrong: an unknown option, a missing column, a type that
            can't be weights. Raised before any work.

    Examples:
        >>> import numpy as np
        >>> result = quantize({"a.weight": np.ones((2, 64), np.float32)}, scheme="int8")
        >>> result.quantized["bits_per_weight"].to_pylist()
        [8.5]
        >>> result.failed.num_rows
        0
    """
    known = Importance.read(importance)
    said = searching(known, scheme, settings, plan)
    options = Options(scheme, said, threads, continue_on_error, importance=known)
    planned = read_plan(plan)
    weights = scanned(answered(weights, planned))
    options = with_facts(weights, planned, options)
    source = as_weights(weights, columns)
    with listener(progress) as callback:
        batches, schemas = _core.quantize(
            source, planned, options, callback, is_sized(weights), _total(weights)
        )
    say_requantized(weights, scheme)
    return QuantizationResult(batches, schemas, single=is_batch(source))


def scanned(weights: Any) -> Any:
    """The weights; a path as a scan."""
    return scan(weights) if is_path(weights) else weights


def with_facts(weights: Any, plan: Any, options: Options) -> Options:
    """The options with what layers of a scan need to know of their parts and siblings."""
    if not isinstance(weights, Scan):
        return options
    if options.importance is not None:
        importance = options.importance.of_model(weights)
        options = replace(options, importance=importance)
        if "importance" not in weights.schema.names:
            importance.say_missing(weighed_of(weights, plan, options), stacklevel=3)
    return facts(weights, plan, options)


def say_requantized(weights: Any, scheme: str | None) -> None:
    """Warn that what is quantized already is quantized again."""
    if scheme in {None, "none"}:
        return
    names = getattr(getattr(weights, "schema", None), "names", ())
    if {"scheme", "scales", "zero_points", "snr_db"} <= set(names() if callable(names) else names):
        message = (
            "the relation is quantized already: its layers are quantized again, from what they "
            "decode to, and errors are against that. Quantize the source for the lowest error."
        )
        warnings.warn(QuantizationWarning(message), stacklevel=3)


def _total(source: Any) -> tuple[int, int] | None:
    """Bytes and rows of a checkpoint whose header tells them."""
    if isinstance(source, Scan) and source.data_bytes is not None and source.row_count is not None:
        return source.data_bytes, source.row_count
    return None


def quantize_stream(
    weights: Weights,
    *,
    scheme: Scheme | None = None,
    plan: Any = None,
    importance: Any = None,
    columns: Mapping[str, str] | None = None,
    continue_on_error: bool = False,
    threads: int | None = None,
    **settings: Unpack[Settings],
) -> QuantizationStream:
    """Quantize weights batch by batch, as the stream that is returned is read.

    Nothing is read or computed before the first batch is asked for, but for what layers in parts
    need to know of all of them; and no more than one batch is held. Tiny ones are put together.
    Arguments are those of `aq.quantize`.

    Returns:
        A stream of the one relation, which can be read once.

    Raises:
        TypeError, ValueError: The call is wrong.
    """
    known = Importance.read(importance)
    said = searching(known, scheme, settings, plan)
    options = Options(scheme, said, threads, continue_on_error, importance=known)
    planned = read_plan(plan)
    weights = scanned(answered(weights, planned))
    options = with_facts(weights, planned, options)
    source = as_weights(weights, columns)
    stream = QuantizationStream(_core.quantize_stream(source, planned, options))
    say_requantized(weights, scheme)
    return stream
