"""Single layers of a scan, by their names."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._inputs import named
from arrowquant._inputs.weights import without_plan
from arrowquant._options import SETTINGS

if TYPE_CHECKING:
    from arrowquant._scan.base import Scan


def layer_names(scan: Scan) -> list[str]:
    """The names, each once, in the scan's order."""
    names: dict[str, None] = {}
    for batch in scan.without_data():
        names |= dict.fromkeys(name for name in batch["layer_name"].to_pylist() if name is not None)
    return list(names)


def read_layer(scan: Scan, name: str) -> np.ndarray[Any, Any]:
    """A layer's weights; those of a quantized one are decoded, to its own type.

    Raises:
        KeyError: There is no layer of that name.
        ValueError: The layer has no data, or NumPy has no type for it.
    """
    from arrowquant._dequantize import dequantize
    from arrowquant._numpy import to_numpy
    from arrowquant._quantize import quantize

    wanted = pa.array([name], pa.string())
    batches = []
    for piece in _pieces_with(scan, name):
        for batch in scan.stretch(*piece):
            found = named(batch, wanted)
            if found.num_rows:
                batches.append(found)
    if not batches:
        near = difflib.get_close_matches(name, layer_names(scan), 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"there is no layer {name!r}.{hint}")
    table = pa.Table.from_batches(batches)
    if "scales" in table.schema.names:
        table = dequantize(table, continue_on_error=True).succeeded
    if not table.num_rows or table["data"].null_count:
        raise ValueError(f"layer {name!r} has no data. It failed, or its file can't be read.")
    is_packed = "packed" in table.schema.names and table["packed"].null_count < table.num_rows
    if is_packed or not pa.types.is_large_binary(table["data"].type):
        # As bytes with their dtype, whatever codes, lists or views they came in.
        table = dequantize(quantize(without_plan(table), scheme="none").quantized).succeeded
    array: np.ndarray[Any, Any] = to_numpy(table)[name]
    return array


def layer_contents(scan: Scan, name: str) -> list[Any]:
    """What tells whether two layers are the same: hashes of their data, and their scales."""
    wanted = pa.array([name], pa.string())
    contents: list[Any] = []
    for piece in _pieces_with(scan, name):
        for batch in scan.stretch(*piece):
            found = named(batch, wanted)
            if not found.num_rows:
                continue
            columns = found.schema.names
            data = found.select([n for n in ("layer_name", "dtype", "data") if n in columns])
            contents += _core.content_hashes(data, None)
            others = (*_core.payload_columns()[1:], "packed", *SETTINGS.values())
            contents += [found[n] for n in others if n in columns]
    return contents


def _pieces_with(scan: Scan, name: str) -> list[tuple[str, int, int]]:
    """The pieces that hold rows of a layer, without reading any data."""
    wanted = []
    rows = [row for batch in scan.without_data() for row in batch["layer_name"].to_pylist()]
    first = 0
    for piece in scan.pieces():
        if name in rows[first : first + piece.rows]:
            wanted.append((piece.file, piece.position, 1))
        first += piece.rows
    return wanted
