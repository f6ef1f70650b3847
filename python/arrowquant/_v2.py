"""The dictionary API: named NumPy arrays in, a dictionary of quantized layers out."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from arrowquant._errors import QuantizationError, QuantizationWarning
from arrowquant._inputs.arrays import DTYPES, Array, Problem, check_names, mapping_to_table
from arrowquant._layers import LayerDict
from arrowquant._options import Mode, Scheme, Settings
from arrowquant._quantize import quantize
from arrowquant._result import QuantizationResult

_SCHEMES: dict[int, Scheme] = {2: "int2", 4: "int4", 8: "int8"}
_DTYPES = ("F32", "F16", "BF16")
_NUMBERS = ("scales", "zero_points", "biases")
_MODES = ("base", "diffusion")


class ArrowQuantV2:
    """Quantizes dictionaries of layers to integers, asymmetric by groups of 128, or by a scheme.

    Args:
        mode: `"base"` or `"diffusion"`: which models the layers are of. It is taken because callers
            of this interface give it, and changes nothing in the results.

    Raises:
        ValueError: `mode` is neither.

    Examples:
        >>> import numpy as np
        >>> layers = {"a.weight": np.linspace(-1, 1, 256, dtype=np.float32).reshape(2, 128)}
        >>> layer = ArrowQuantV2().quantize_batch(layers, bit_width=4)["a.weight"]
        >>> len(layer["quantized_data"]), layer["scales"].shape, layer["group_size"]
        (128, (2,), 128)
    """

    def __init__(self, mode: Mode = "base") -> None:
        if mode not in _MODES:
            raise ValueError(f"Invalid mode: {mode!r}. Must be 'base' or 'diffusion'")
        self.mode = mode

    def __repr__(self) -> str:
        return f"aq.ArrowQuantV2(mode={self.mode!r})"

    def quantize_batch(
        self,
        weights_dict: Mapping[str, Any],
        bit_width: int = 4,
        continue_on_error: bool = False,
        *,
        scheme: Scheme | None = None,
    ) -> LayerDict:
        """Quantize named arrays.

        Args:
            weights_dict: Layer names to contiguous arrays of float32, float16 or bfloat16 (NumPy
                with ml_dtypes, torch, JAX), read without a copy.
            bit_width: 2, 4 or 8. A `scheme` takes its place.
            continue_on_error: Whether failed layers are left out rather than raised.
            scheme: One of `aq.schemes()`, with its default settings.

        Returns:
            In the input's order, name to `{"quantized_data": bytes, "scales": float32 array
            [rows * groups], "zero_points": uint8 array, likewise, "shape": list of int,
            "bit_width": int, "group_size": int}`. With a `scheme`, `scheme: str` takes the place
            of `bit_width`, `biases: float32 array` and `tensor_scale: float` may be there, and
            what the scheme does not have is absent. docs/format.md says what each holds. The
            dictionary's `failed` is a table of the layers that are not in it.

        Raises:
            ValueError: `bit_width` is none of 2, 4, 8, or there is no such `scheme`.
            TypeError: A name is no string, or `weights_dict` is no mapping.
            QuantizationError: Layers failed and `continue_on_error` is off.

        Warns:
            QuantizationWarning: Once, after the dictionary is built, where layers failed and
                `continue_on_error` is on; it carries the dictionary as `result`.
        """
        return _quantize_batch(weights_dict, bit_width, scheme, None, continue_on_error)

    def quantize_batch_with_progress(
        self,
        weights_dict: Mapping[str, Any],
        bit_width: int = 4,
        progress_callback: Callable[[str, float], Any] | None = None,
        continue_on_error: bool = False,
        *,
        scheme: Scheme | None = None,
    ) -> LayerDict:
        """Quantize named arrays, calling back as layers complete.

        Args:
            weights_dict: As for `quantize_batch`.
            bit_width: Likewise.
            progress_callback: `progress_callback(layer_name, fraction)`, called on this thread for
                each layer, failed ones too; the fraction never falls and ends at 1.0. An exception
                in it stops the work and is raised.
            continue_on_error: As for `quantize_batch`.
            scheme: Likewise.

        Returns:
            As `quantize_batch`, which also says what is raised and warned of.
        """
        return _quantize_batch(
            weights_dict, bit_width, scheme, progress_callback, continue_on_error
        )


def _quantize_batch(
    layers: Mapping[str, Any],
    bit_width: object,
    scheme: Scheme | None,
    progress: Callable[[str, float], Any] | None,
    continue_on_error: bool,
) -> LayerDict:
    bits = _check_bit_width(bit_width) if scheme is None else None
    if not isinstance(layers, Mapping):
        raise TypeError(f"weights_dict must map names to arrays, got {type(layers).__name__}.")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress_callback must be callable or None, got {progress!r}.")
    check_names(layers)
    if not layers:
        return LayerDict(failed=_quantize(mapping_to_table({}), bits, scheme, None).failed)
    table = mapping_to_table(layers, _problem)
    try:
        result = _quantize(table, bits, scheme, progress, continue_on_error=continue_on_error)
    except QuantizationError as error:
        _raise(error.failed)
    quantized = _build(result, bits)
    if result.failed.num_rows:
        message = "\n".join(_describe(row) for row in result.failed.to_pylist())
        # At the line that called the method that called this.
        warnings.warn(QuantizationWarning(message, quantized), stacklevel=3)
    return quantized


def _check_bit_width(bit_width: object) -> int:
    try:
        bits = None if isinstance(bit_width, bool) else operator.index(bit_width)  # type: ignore[arg-type]
    except TypeError:
        bits = None
    if bits not in _SCHEMES:
        raise ValueError(f"Invalid bit_width: {bit_width}. Must be 2, 4, or 8")
    return bits


_NAMES = {ours: name for name, ours in DTYPES.items()}


def _problem(array: Array) -> Problem | None:
    """What keeps an array from this API: float64, nearly always an accident here, is one."""
    if array.dtype not in _DTYPES:
        return "unsupported_dtype", (
            f"has dtype '{_NAMES.get(array.dtype or '')}', expected 'float32' (or 'float16', "
            "'bfloat16'). Convert it with arr.astype(np.float32)."
        )
    if array.size == 0:
        return "empty", f"is empty, shape {list(array.shape or ())}. Leave it out."
    return None


def _quantize(
    table: Any,
    bits: int | None,
    scheme: Scheme | None,
    progress: Callable[[str, float], Any] | None,
    *,
    continue_on_error: bool = True,
) -> QuantizationResult:
    settings: Settings = {}
    if bits is not None:
        # The bytes that this interface has always given.
        settings = {"group_size": 128, "symmetric": False, "search": "none"}
    return quantize(
        table,
        scheme=scheme if bits is None else _SCHEMES[bits],
        continue_on_error=continue_on_error,
        progress=progress or False,  # type: ignore[arg-type]
        **settings,
    )


def _build(result: QuantizationResult, bits: int | None) -> LayerDict:
    layers, succeeded = LayerDict(failed=result.failed), result.succeeded
    for row in range(succeeded.num_rows):
        good = succeeded.slice(row, 1)
        numbers = {name: good[name][0] for name in _NUMBERS}
        scheme = {"scheme": good["scheme"][0].as_py()} if bits is None else {"bit_width": bits}
        rest = {name: good[name][0].as_py() for name in ("tensor_scale", "group_size")}
        layers[good["layer_name"][0].as_py()] = {
            "quantized_data": good["data"][0].as_py(),
            **{name: of.values.to_numpy() for name, of in numbers.items() if of.is_valid},
            "shape": good["shape"][0].as_py(),
            **scheme,
            **{name: value for name, value in rest.items() if value is not None},
        }
    return layers


def _raise(failed: Any) -> None:
    message = "\n".join(_describe(row) for row in failed.to_pylist())
    raise QuantizationError(message, failed) from None


def _describe(row: dict[str, Any]) -> str:
    name, reason = row["layer_name"], row["error_message"]
    if row["error_code"] == "non_finite":
        reason = (
            f": contains NaN or Inf at index {row['error_element']} ({row['error_count']} in all). "
            "Clean it, for example with np.nan_to_num(arr), or leave the layer out."
        )
    prefix = f"layer '{name}'"
    return f"Error processing {prefix}{reason.removeprefix(prefix)}"
