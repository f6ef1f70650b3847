"""GPTQ's and AWQ's layouts of integers.

Sources: GPTQModel's `QuantizeConfig`, AutoAWQ's `AwqConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arrowquant._export.config import write_json
from arrowquant._export.formats.base import Format, Model, set_quantization
from arrowquant._export.formats.compressed_tensors import refuse_adapter, refuse_other_codes
from arrowquant._export.fused import warn_of_differences
from arrowquant._export.layers import Layer


class _Integers(Format):
    """What both have in common."""

    load = "vllm serve {path}"
    checks_parameters = True

    def prepare(self, model: Model) -> None:
        """Refuse adapters, and another tool's codes.

        Raises:
            ValueError: It is one, or there are some.
        """
        refuse_adapter(model)
        refuse_other_codes(model)

    def together(self, model: Model) -> Iterable[tuple[str, str]]:
        """All layers must have the same bits and group size: one configuration holds for them."""
        ways: dict[tuple[str, int], Layer] = {}
        for layer in model.quantized:
            ways.setdefault((layer.scheme, self.size(layer)), layer)
        if len(ways) > 1:
            (first, size), (other, other_size), *_ = ways
            yield (
                ways[other, other_size].name,
                f"one configuration holds for all layers, but it is {other} in groups of "
                f"{other_size} and others are {first} in groups of {size}. Quantize all alike",
            )

    @staticmethod
    def size(layer: Layer) -> int:
        """The group size as the configuration has it."""
        return -1 if layer.group_size == layer.shape[-1] else layer.group_size or -1

    def common(self, model: Model) -> dict[str, Any]:
        """What both configurations say."""
        layer = model.quantized[0]
        return {
            "bits": int(layer.scheme.removeprefix("int")),
            "group_size": self.size(layer),
        }


class Gptq(_Integers):
    """GPTQ's first format."""

    name = "gptq"
    layout = "gptq"

    def configure(self, model: Model, folder: Path) -> None:
        """Write `quantization_config`, and its twin in a file of its own."""
        if not model.quantized:
            return
        warn_of_differences(model.layers.layers)
        said: dict[str, Any] = {
            **self.common(model),
            "method": "gptq",
            "format": "gptq",
            "pack_dtype": "int32",
            "quant_method": "gptq",
            "checkpoint_format": "gptq",
            "desc_act": False,
            "sym": all(layer.is_symmetric for layer in model.quantized),
            "lm_head": any(layer.role == "head" for layer in model.quantized),
        }
        if model.kept_modules:  # As GPTQModel says it.
            said["dynamic"] = {f"-:^{re.escape(name)}$": {} for name in model.kept_modules}
        set_quantization(folder, said)
        write_json(folder / "quantize_config.json", said)


class Awq(_Integers):
    """AWQ's GEMM layout."""

    name = "awq"
    layout = "awq"

    def configure(self, model: Model, folder: Path) -> None:
        """Write `quantization_config`."""
        if not model.quantized:
            return
        warn_of_differences(model.layers.layers)
        said = {
            **self.common(model),
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": True,
            # Loaders find kept modules by the types of their tensors; names would match parts.
            "modules_to_not_convert": None,
        }
        set_quantization(folder, said)
