"""bitsandbytes' four-bit weights, as transformers loads them.

Source: `BitsAndBytesConfig` in transformers' `utils/quantization_config.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from arrowquant._export.formats.base import PIPELINE, Format, Model, set_quantization
from arrowquant._export.layers import Layer

_KINDS = {"nf4": "nf4", "nf4_dq": "nf4", "bnb_fp4": "fp4", "bnb_fp4_dq": "fp4"}


class Bitsandbytes(Format):
    """NF4 and FP4."""

    name = "bitsandbytes"
    layout = "bitsandbytes"
    load = PIPELINE

    def needs_parameters(self, model: Model) -> bool:
        """Scales that are codes themselves are looked at."""
        return any(layer.scheme.endswith("_dq") for layer in model.quantized)

    def refuse(self, model: Model, layer: Layer) -> str | None:
        """As all; and experts in stacks, which transformers leaves as they are."""
        if layer.stack is not None or model.experts.place(layer) is not None:
            return (
                "it is an expert, and transformers replaces linear layers only: it stacks experts "
                "as it loads. Keep them (--keep NAME), or write compressed-tensors"
            )
        return super().refuse(model, layer)

    def together(self, model: Model) -> Iterable[tuple[str, str]]:
        """All layers must be of one scheme: one configuration holds for them."""
        schemes = sorted({layer.scheme for layer in model.quantized})
        if len(schemes) > 1:
            other = next(x for x in model.quantized if x.scheme == schemes[1])
            yield (
                other.name,
                f"one configuration holds for all layers, but they have {' and '.join(schemes)}. "
                "Quantize all to one of them",
            )

    def configure(self, model: Model, folder: Path) -> None:
        """Write `quantization_config`."""
        if not model.quantized:
            return
        scheme = model.quantized[0].scheme
        said = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "_load_in_4bit": True,
            "_load_in_8bit": False,
            "bnb_4bit_quant_type": _KINDS[scheme],
            "bnb_4bit_use_double_quant": scheme.endswith("_dq"),
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_enable_fp32_cpu_offload": False,
            "llm_int8_has_fp16_weight": False,
            "llm_int8_skip_modules": model.kept_or_head,
            "llm_int8_threshold": 6.0,
        }
        set_quantization(folder, said)
