"""How much columns matter as a llama-like model's weights say, without running it.

Second moments are carried from layer to layer, as if all inputs were independent and normal:
through norms, the values of attention, and gated feed-forward layers, with squared weights in place
of weights. Numbers are relative within a layer, which is all that a search asks for. Sums are
float64, and what comes of them is rounded, so that digits in which CPUs differ are gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from arrowquant._importance import SCHEMA, says_something
from arrowquant._scan import Scan, scan

Array = np.ndarray[Any, Any]
KINDS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Architectures whose blocks are those that are computed here."""
SOURCE = "weights alone"
_ATTENDED = 0.5
"""How much of a value's second moment is left by the mean over positions that attention takes."""
_DIGITS = 12
"""Bits of a number that are kept."""
_ROWS = 256
"""Rows whose squares are in memory at once."""
_NODES = 64
"""Points at which the expectation over a normal number is taken."""


def propagated(folder: Path) -> pa.Table | None:
    """Find the table of a Hugging Face directory; nothing where its model is of another kind.

    A layer has no row where what comes into it is no finite number, since a weight before it is
    none, or very large.

    Raises:
        OSError, ValueError: The model can't be read.
    """
    from arrowquant._model import read_config

    if not folder.is_dir() or not KINDS.intersection(read_config(folder).model_types):
        return None
    weights = scan(folder)
    stored, at = set(weights.layer_names), 0
    found: dict[str, Array] = {}
    if "model.embed_tokens.weight" not in stored:
        return None
    residual = _mean_square(weights, "model.embed_tokens.weight")
    while f"model.layers.{at}.input_layernorm.weight" in stored:
        block = f"model.layers.{at}."
        try:
            with np.errstate(all="ignore"):
                residual = _block(weights, block, residual, found)
        except (KeyError, ValueError):
            return None  # Its layers have other names, or other shapes.
        at += 1
    names = sorted(name for name, moments in found.items() if says_something(moments))
    if not names:
        return None
    columns = [
        pa.array(names),
        pa.array([found[name] for name in names], SCHEMA.field("importance").type),
        pa.array([0] * len(names), pa.int64()),
        pa.array([SOURCE] * len(names)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _block(weights: Scan, block: str, residual: Array, found: dict[str, Array]) -> Array:
    """Note what comes into a block's layers; return the second moments that leave it."""

    def seen(name: str, moments: Array) -> Array:
        found[f"{block}{name}.weight"] = _rounded(moments)
        return _squares_times(weights, f"{block}{name}.weight", moments)

    into = _normed(weights, f"{block}input_layernorm.weight", residual)
    for name in ("self_attn.q_proj", "self_attn.k_proj"):
        found[f"{block}{name}.weight"] = _rounded(into)
    values = seen("self_attn.v_proj", into)
    columns = weights[f"{block}self_attn.o_proj.weight"].shape[1]
    heads = _heads(weights, block, len(values))
    mixed = np.repeat(values.reshape(heads, -1), columns // len(values), axis=0).reshape(-1)
    residual = residual + _ATTENDED * seen("self_attn.o_proj", mixed)
    into = _normed(weights, f"{block}post_attention_layernorm.weight", residual)
    gates, lifts = seen("mlp.gate_proj", into), seen("mlp.up_proj", into)
    inner = _silu_square(np.sqrt(gates)) * lifts
    after: Array = residual + seen("mlp.down_proj", inner)
    return after


def _rounded(moments: Array) -> Array:
    fraction, exponent = np.frexp(moments)
    kept = 1 << _DIGITS
    rounded: Array = np.ldexp(np.rint(fraction * kept) / kept, exponent).astype(np.float32)
    return rounded


def _heads(weights: Scan, block: str, values: int) -> int:
    """How many heads there are of keys and values."""
    from arrowquant._model import read_config

    config = read_config(weights.path).values
    heads = config["num_attention_heads"]
    found: int = config.get("num_key_value_heads") or heads
    if values % found:
        raise ValueError(f"{block}self_attn.v_proj.weight: {values} values of {found} heads")
    return found


def _squared(weights: Scan, name: str, start: int) -> Array:
    """The squares of some rows."""
    some = np.asarray(weights[name][start : start + _ROWS], np.float32)
    squares: Array = np.square(some, dtype=np.float64)
    return squares


def _mean_square(weights: Scan, name: str) -> Array:
    """Of each column."""
    matrix = weights[name]
    found: Array = np.zeros(matrix.shape[1])
    for start in range(0, len(matrix), _ROWS):
        found += _squares(matrix[start : start + _ROWS]).sum(0)
    found /= len(matrix)
    return found


def _squares_times(weights: Scan, name: str, moments: Array) -> Array:
    """A matrix's squares times a vector."""
    matrix = weights[name]
    found: Array = np.empty(len(matrix))
    for start in range(0, len(matrix), _ROWS):
        found[start : start + _ROWS] = _squares(matrix[start : start + _ROWS]) @ moments
    return found


def _squares(values: Any) -> Array:
    found: Array = np.square(np.asarray(values, np.float32), dtype=np.float64)
    return found


def _normed(weights: Scan, name: str, moments: Array) -> Array:
    normed: Array = _squares(weights[name]) * (moments / moments.mean())
    return normed


def _silu_square(spread: Array) -> Array:
    """The mean of `silu(x)²` for normal `x` of each standard deviation."""
    points, mass = np.polynomial.hermite_e.hermegauss(_NODES)
    x = spread[:, None] * points[None]
    mean: Array = np.square(x / (1 + np.exp(-x))) @ (mass / mass.sum())
    return mean
