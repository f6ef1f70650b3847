"""Weights as people hold them: files, models, named arrays, and any Arrow object."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from arrowquant._inputs.arrays import mapping_to_table
from arrowquant._inputs.arrow import (
    ArrowArrayExportable,
    ArrowStreamExportable,
    as_arrow,
    as_table,
)
from arrowquant._inputs.loaded import is_a
from arrowquant._model import Config, Tensor, resolve
from arrowquant._model.annotate import Annotations
from arrowquant._options import SETTINGS

Weights = (
    ArrowStreamExportable
    | ArrowArrayExportable
    | Mapping[str, Any]
    | str
    | os.PathLike[str]
    | Sequence[str | os.PathLike[str]]
)


def as_weights(weights: Any, columns: Mapping[str, str] | None = None) -> Any:
    """Return weights as an object that the core can import.

    Raises:
        TypeError: It is none that can be; or a mapping's name is no string.
        ValueError: A column to rename is not there.
    """
    is_module = is_a(weights, "torch.nn", "Module")
    if (is_module or isinstance(weights, Mapping)) and columns is not None:
        raise TypeError("columns renames those of a table or frame; name a mapping's keys instead.")
    if is_module:
        return _module_to_table(weights)
    if isinstance(weights, Mapping):
        return mapping_to_table(weights)
    return as_arrow(weights, "weights", columns)


def weights_table(weights: Any) -> pa.Table:
    """Return weights as a table.

    Raises:
        TypeError: As `as_weights`.
    """
    if isinstance(weights, Mapping) or is_a(weights, "torch.nn", "Module"):
        return as_table(as_weights(weights), "weights")
    return decoded(as_table(weights, "weights"))


def decoded(table: pa.Table) -> pa.Table:
    """Weights without codes: rows of `packed` ones are what they decode to."""
    if "packed" not in table.schema.names or table["packed"].null_count == table.num_rows:
        return table
    from arrowquant._dequantize import dequantize
    from arrowquant._quantize import quantize

    kept = quantize(without_plan(table), scheme="none", continue_on_error=True)
    return pa.table(dequantize(kept, continue_on_error=True))


def without_plan(table: pa.Table) -> pa.Table:
    """The table without what its rows say of how to quantize them."""
    columns = ("scheme", *SETTINGS.values())
    return table.drop_columns([name for name in columns if name in table.schema.names])


def _module_to_table(module: Any) -> pa.Table:
    """A torch module's state with what each tensor means.

    What several names stand for comes once, under the first. The others are in the column
    `tied_names`, which is there where anything is tied.
    """
    state: dict[str, Any] = module.state_dict(keep_vars=True)
    first: dict[Any, str] = {}
    others: dict[str, list[str]] = {}
    for name, tensor in state.items():
        others.setdefault(first.setdefault(_place(tensor), name), []).append(name)
    weights = mapping_to_table({name: state[name] for name in others})
    tied = [names[1:] or None for names in others.values()]
    table = pa.table(weights)
    if any(tied):
        table = table.append_column("tied_names", pa.array(tied, pa.list_(pa.string())))
    config = Config(_settings(module))
    shapes = [[] if shape is None else shape for shape in table["shape"].to_pylist()]
    columns = table["layer_name"].to_pylist(), table["dtype"].to_pylist(), shapes
    tensors = [Tensor(n, dtype or "", shape) for n, dtype, shape in zip(*columns, strict=True)]
    known = _roles_of_types(module)
    meanings = [
        replace(meaning, role=known.get(tensor.name, meaning.role))
        if meaning.role == "weight"
        else meaning
        for tensor, meaning in zip(tensors, resolve(tensors, config), strict=True)
    ]
    annotations = Annotations.of(tensors, meanings)
    batches = [annotations.complete(batch) for batch in table.to_batches()]
    return pa.Table.from_batches(batches, annotations.schema(table.schema))


_TYPES = {"Embedding": "embedding", "EmbeddingBag": "embedding", "LayerNorm": "norm"}
_TYPES |= {"RMSNorm": "norm", "GroupNorm": "norm", "_NormBase": "norm", "_ConvNd": "conv"}
"""Classes of torch, and what their weights are."""


def _roles_of_types(module: Any) -> dict[str, str]:
    """The roles of weights whose module's class says more than their names."""
    found = {}
    for path, one in module.named_modules():
        for kind in type(one).__mro__:
            if kind.__module__.startswith("torch.nn.") and kind.__name__ in _TYPES:
                found[f"{path}.weight" if path else "weight"] = _TYPES[kind.__name__]
    return found


def _settings(module: Any) -> dict[str, Any]:
    """What a transformers' model says of itself, as its `config.json` would."""
    config = getattr(module, "config", None)
    to_dict = getattr(config, "to_dict", None)
    settings = to_dict() if callable(to_dict) else None
    return settings if isinstance(settings, dict) else {}


def _place(tensor: Any) -> Any:
    """What two names of one tensor have in common."""
    if not is_a(tensor, "torch", "Tensor") or tensor.device.type == "meta" or not tensor.numel():
        return id(tensor)
    try:
        where = tensor.data_ptr(), tensor.stride()
    except RuntimeError:  # Sparse tensors have neither.
        return id(tensor)
    return *where, tensor.dtype, tuple(tensor.shape), str(tensor.device)
