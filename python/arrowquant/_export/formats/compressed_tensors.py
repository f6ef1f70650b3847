"""compressed-tensors, which vLLM and transformers load.

The tensors are the core's business; here is what `config.json` says of them. Source of the format
of `quantization_config`: `quantization/quant_config.py` in
https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arrowquant._errors import QuantizationWarning
from arrowquant._export.config import read_json, write_json
from arrowquant._export.formats.base import Format, Model, refuse_adapter, refuse_other_codes
from arrowquant._export.fused import tensor_scales_apart, warn_of_differences, with_fused
from arrowquant._export.layers import Layer

_METHOD = "compressed-tensors"
_MIXED = "mixed-precision"
_BYTE = 8
_LOADERS_LACK = {"gpt_oss"}
_UNSEEN = {
    "dbrx": "no loader was seen that takes DBRX's experts one by one",
}
"""Models whose experts no loader is known to take in this layout."""


class CompressedTensors(Format):
    """Integers, FP8, NVFP4 and MX floats, several in one model."""

    name = "compressed-tensors"
    layout = "compressed-tensors"
    load = "vllm serve {path}"

    def prepare(self, model: Model) -> None:
        """Refuse adapters, and another tool's codes beside ours.

        Raises:
            ValueError: One configuration can't state both.
        """
        refuse_adapter(model)
        packed = [layer for layer in model.layers.layers if layer.is_of_another_tool]
        if _cache_scheme(model) is not None:  # The new configuration has a place for it.
            packed = [layer for layer in packed if not layer.is_of_cache]
        refuse_other_codes(model, packed)

    def refuse(self, model: Model, layer: Layer) -> str | None:
        """As all; and experts that no loader was seen to take."""
        why = super().refuse(model, layer)
        unseen = next((_UNSEEN[x] for x in model.config.model_types if x in _UNSEEN), None)
        if why is None and layer.stack is not None and unseen is not None:
            return f"{unseen}. Keep them (--keep NAME), or write them decoded"
        return why

    def needs_parameters(self, model: Model) -> bool:
        """Words of zero points hold several rows, between which parts may lie."""
        return any(not x.is_symmetric for x in model.quantized if x.scheme.startswith("int"))

    def together(self, model: Model) -> Iterable[tuple[str, str]]:
        """Sets of layers with several tensor scales."""
        return tensor_scales_apart(model.quantized)

    def configure(self, model: Model, folder: Path) -> None:
        """Write `quantization_config`.

        Warns:
            QuantizationWarning: Loaders take layers together that are quantized differently; or no
                loader was seen that takes the model's experts so.
        """
        kinds = _LOADERS_LACK.intersection(model.config.model_types)
        if kinds and model.experts.split:
            message = (
                f"no loader was seen that takes the experts of {kinds.pop()} in this layout. vLLM "
                "and transformers load the model's own MXFP4."
            )
            warnings.warn(QuantizationWarning(message), stacklevel=5)
        warn_of_differences(model.layers.layers)
        config = read_json(folder / "config.json")
        # Where nothing was quantized here, what the source says of itself still holds.
        if model.quantized:
            scheme = _cache_scheme(model)
            config["quantization_config"] = quantization_config(model) | {"kv_cache_scheme": scheme}
        write_json(folder / "config.json", config)


def _cache_scheme(model: Model) -> Any:
    """How the source's configuration says that keys and values are cached; None if it doesn't."""
    config = model.config
    said = config.quantization if config.quant_method == _METHOD else None
    return None if said is None else said.get("kv_cache_scheme")


def quantization_config(model: Model) -> dict[str, Any]:
    """What `config.json` says: a group of layers for each way in which they are quantized.

    Layers are named one by one: a class of layers would also take in what was kept.
    """
    ways: dict[str, tuple[dict[str, Any], list[str]]] = {}
    of_experts = set()
    for layer in model.quantized:
        weights = _weights(layer)
        modules = ways.setdefault(repr(weights), (weights, []))[1]
        modules += model.modules(layer)
        if model.experts.place(layer) is not None:
            of_experts.add(repr(weights))
    groups = {
        f"group_{index}": {
            "targets": _targets(modules, has_all_experts={way} == of_experts),
            "format": weights.pop("format"),
            "input_activations": _activations(weights),
            "output_activations": None,
            "weights": weights,
        }
        for index, (way, (weights, modules)) in enumerate(ways.items())
    }
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": _METHOD,
        "format": formats.pop() if len(formats) == 1 else _MIXED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": with_fused(model.kept_modules),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


_EXPERTS = r"re:.*\.experts\..*"


def _targets(modules: list[str], *, has_all_experts: bool) -> list[str]:
    """The modules of a group; one pattern for experts that are all alike.

    transformers looks for such a pattern. Kept experts are ignored by their names.
    """
    if not has_all_experts:
        return sorted(modules)
    return [*sorted(name for name in modules if ".experts." not in name), _EXPERTS]


def _activations(weights: dict[str, Any]) -> dict[str, Any] | None:
    """How activations are quantized as they come: vLLM's FP8 kernels ask for it."""
    if weights["num_bits"] != _BYTE or weights["type"] != "float" or "scale_dtype" in weights:
        return None
    said = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": True}
    if weights["strategy"] == "block":
        return said | {"strategy": "group", "group_size": weights["block_structure"][1]}
    return said | {"strategy": "token", "group_size": None}


def _weights(layer: Layer) -> dict[str, Any]:
    """How a layer's weights are quantized, and in which of the formats."""
    said: dict[str, Any] = {"num_bits": 4, "type": "float", "symmetric": True}
    size: int | None = layer.group_size
    if layer.scheme.startswith("int"):
        bits = int(layer.scheme.removeprefix("int"))
        size = None if size == layer.shape[-1] else size
        return {
            "format": "pack-quantized",
            "num_bits": bits,
            "type": "int",
            "symmetric": layer.is_symmetric,
            "strategy": "channel" if size is None else "group",
            "group_size": size,
            "dynamic": False,
        }
    if layer.scheme == "fp8_e4m3":
        said |= {"format": "float-quantized", "num_bits": 8, "dynamic": False, "group_size": None}
        rows = layer.settings.get("group_rows")
        if rows == -1:
            return said | {"strategy": "tensor"}
        if size == -1 or size == layer.shape[-1]:
            return said | {"strategy": "channel"}
        return said | {"strategy": "block", "block_structure": [rows, size]}
    if layer.scheme == "nvfp4":
        return said | {
            "format": "nvfp4-pack-quantized",
            "strategy": "tensor_group",
            "group_size": 16,
            "dynamic": False,
            "scale_dtype": "torch.float8_e4m3fn",
        }
    bits, form = (4, "mxfp4-pack-quantized") if layer.scheme == "mxfp4" else (8, "mxfp8-quantized")
    return said | {
        "format": form,
        "num_bits": bits,
        "strategy": "group",
        "group_size": 32,
        "dynamic": False,
        "scale_dtype": "torch.uint8",
    }
