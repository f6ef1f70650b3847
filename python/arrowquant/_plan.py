"""`aq.plan`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._errors import QuantizationWarning
from arrowquant._inputs import as_arrow
from arrowquant._options import Options
from arrowquant._scan import Scan, scan


def plan(
    weights: Any,
    *,
    scheme: str = "int4",
    group_size: int | None = None,
    symmetric: bool | None = None,
    scale_dtype: str = "source",
    keep: Sequence[str] = (),
) -> pa.Table:
    """Return what will be done with each layer and what it will take, reading no weights.

    A layer is quantized if it is F64, F32, F16 or BF16, has two or more dimensions, a last
    dimension of at least 32, and gets smaller. The table is a `plan=` for `aq.quantize`, and can
    be changed like any other before.

    Args:
        weights: As for `aq.quantize`, or a path for `aq.scan`. Of a one-shot stream nothing is
            left after it.
        scheme: As for `aq.quantize`, like the next three.
        group_size: See there.
        symmetric: See there.
        scale_dtype: See there.
        keep: Shell patterns (`*`, `?`, `[...]`) of names of layers to keep.

    Returns:
        `layer_name, shape, dtype, scheme, group_size, is_symmetric, source_bytes,
        predicted_bytes` (codes, scales and zero points, or the kept bytes), `reason` why a layer
        is kept (`one_dimensional`, `not_float`, `no_gain`, `kept_by_user`) and `note` on layers
        that are often kept. Sizes are exact, but for a layer whose scales overflow
        `scale_dtype="F16"`: it takes F32, which only its values tell.

    Raises:
        TypeError, ValueError: The call is wrong.

    Warns:
        QuantizationWarning: A pattern of `keep` matches no layer.
    """
    if isinstance(keep, str):
        raise TypeError(f"keep must be a sequence of patterns, got the string {keep!r}.")
    options = Options(scheme, group_size, symmetric, scale_dtype)
    if isinstance(weights, (str, os.PathLike)):
        weights = scan(weights)
    source = weights.without_data() if isinstance(weights, Scan) else as_arrow(weights)
    batches, schema, unmatched = _core.plan(source, list(keep), options)
    if unmatched:
        patterns = ", ".join(repr(pattern) for pattern in unmatched)
        warnings.warn(QuantizationWarning(f"keep matches no layer: {patterns}."), stacklevel=2)
    return pa.Table.from_batches([pa.record_batch(batch) for batch in batches], pa.schema(schema))
