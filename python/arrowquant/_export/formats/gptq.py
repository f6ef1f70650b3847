"""GPTQ's and AWQ's layouts of integers.

Sources: GPTQModel's `QuantizeConfig`, AutoAWQ's `AwqConfig`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arrowquant._export.config import write_json
from arrowquant._export.formats.base import Format, Model, set_quantization
from arrowquant._export.fused import warn_of_differences
from arrowquant._export.layers import Layer

_ONE = -1
"""The group size of whole rows."""


class _Integers(Format):
    """What both have in common."""

    load = "vllm serve {path}"

    def together(self, model: Model) -> Iterable[tuple[str, str]]:
        """All layers must have the same bits and group size: one configuration holds for them."""
        if not model.quantized:
            return
        bits, size = self.common(model).values()
        for layer in model.quantized:
            groups = layer.shape[-1] if self.has_one_group(layer) else layer.group_size or 0
            fits = groups <= size if self.has_one_group(layer) else groups == size
            if _bits(layer) == bits and (fits or size == _ONE):
                continue
            yield (
                layer.name,
                f"one configuration holds for all layers, which says {bits} bits in groups of "
                f"{size}, and it has groups of {groups}. Quantize all alike",
            )

    def needs_parameters(self, model: Model) -> bool:
        """Scales must be float16, and of GPTQ no zero point zero."""
        del model
        return True

    @staticmethod
    def has_one_group(layer: Layer) -> bool:
        """Whether all of a row shares a scale, so that any larger group size is the same."""
        return layer.group_size in {_ONE, layer.shape[-1]}

    def common(self, model: Model) -> dict[str, int]:
        """Bits and group size, as both configurations say them."""
        sizes = Counter(x.group_size for x in model.quantized if not self.has_one_group(x))
        usual = sizes.most_common(1)[0][0] if sizes else _ONE
        bits = Counter(map(_bits, model.quantized)).most_common(1)[0][0]
        return {"bits": bits, "group_size": usual or _ONE}


def _bits(layer: Layer) -> int:
    return int(layer.scheme.removeprefix("int"))


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
