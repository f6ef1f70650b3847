"""`aq.dequantize` and `aq.dequantize_stream`."""

from __future__ import annotations

from typing import Any

from arrowquant import _core
from arrowquant._inputs import as_arrow, is_batch
from arrowquant._options import Dtype
from arrowquant._result import DequantizationResult
from arrowquant._stream import QuantizationStream


def dequantize(
    quantized: Any,
    *,
    dtype: Dtype = "source",
    continue_on_error: bool = False,
    threads: int | None = None,
) -> DequantizationResult:
    """Return the weights that a quantized relation stands for, one row for each.

    Args:
        quantized: A quantized relation in any Arrow object: an `aq.quantize` result, a stream, a
            table, a lazy frame, an `aq.scan` of a file or dataset that was written here, or the
            path of one.
        dtype: `source` for each layer's own type, or `F32`. Values are rounded to it to nearest,
            ties to even, and stay finite. Kept layers get their original bytes either way.
        continue_on_error: Whether rows that can't be decoded are returned rather than raised.
            Rows that came in failed are returned in any case.
        threads: As for `aq.quantize`.

    Returns:
        A weights relation, which can be quantized anew, and its error table.

    Raises:
        QuantizationError: A row can't be decoded and `continue_on_error` is off.
        TypeError, ValueError: The call is wrong, or the relation's format is newer than ours.
    """
    quantized = as_arrow(quantized, "quantized")
    single = is_batch(quantized)
    batches, schemas = _core.dequantize(quantized, dtype, threads, continue_on_error)
    return DequantizationResult(batches, schemas, single=single)


def dequantize_stream(
    quantized: Any,
    *,
    dtype: Dtype = "source",
    continue_on_error: bool = False,
    threads: int | None = None,
) -> QuantizationStream:
    """Dequantize batch by batch, as the stream that is returned is read.

    Arguments and errors are those of `aq.dequantize`; the stream has the columns `layer_name,
    dtype, shape, data`, the carried ones, and the `error_` columns.
    """
    quantized = as_arrow(quantized, "quantized")
    return QuantizationStream(_core.dequantize_stream(quantized, dtype, threads, continue_on_error))
