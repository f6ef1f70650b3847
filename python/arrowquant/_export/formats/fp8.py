"""FP8 in blocks of 128 by 128, as transformers and DeepSeek store it.

Source: `utils/quantization_config.py` (`FineGrainedFP8Config`) in transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from arrowquant._export.formats.base import PIPELINE, Format, Model, set_quantization
from arrowquant._export.fused import warn_of_differences, with_fused
from arrowquant._export.layers import Layer


class Fp8(Format):
    """transformers' and DeepSeek's layout."""

    name = "fp8"
    layout = "fp8"
    load = PIPELINE
    _unseen: ClassVar[set[str]] = {"llama4", "llama4_text", "gpt_oss", "dbrx"}
    """Models whose experts no loader was seen to take in this layout."""

    def refuse(self, model: Model, layer: Layer) -> str | None:
        """As all; and experts that no loader was seen to take."""
        why = super().refuse(model, layer)
        found = self._unseen.intersection(model.config.model_types)
        if why is None and found and layer.stack is not None:
            return (
                f"no loader was seen that takes experts of {found.pop()} in this layout. Keep "
                "them, or write compressed-tensors"
            )
        return why

    def configure(self, model: Model, folder: Path) -> None:
        """Write `quantization_config`."""
        warn_of_differences(model.layers.layers)
        said = {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": with_fused(model.kept_or_head),
        }
        set_quantization(folder, said)
