"""NVFP4 of weights alone, as NVIDIA's Model Optimizer writes it.

Source: `modelopt/torch/export/quant_utils.py` in https://github.com/NVIDIA/Model-Optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from arrowquant._export.config import write_json
from arrowquant._export.formats.base import Format, Model, set_quantization
from arrowquant._export.fused import tensor_scales_apart, warn_of_differences, with_fused

_ALGORITHM = "W4A16_NVFP4"
_GROUP = 16


class ModelOpt(Format):
    """ModelOpt's NVFP4."""

    name = "modelopt"
    layout = "modelopt"
    load = "vllm serve {path}"

    def together(self, model: Model) -> Iterable[tuple[str, str]]:
        """Sets of layers with several tensor scales."""
        return tensor_scales_apart(model.quantized)

    def configure(self, model: Model, folder: Path) -> None:
        """Write `hf_quant_config.json` and its mirror in `config.json`."""
        warn_of_differences(model.layers.layers)
        kept = with_fused(model.kept_modules)
        producer = {"name": "modelopt", "version": "0.47.0"}
        own = {"quant_algo": _ALGORITHM, "group_size": _GROUP}
        # llama.cpp's converter looks for these.
        layers = {name: own for layer in model.quantized for name in model.modules(layer)}
        said = {
            "quant_algo": _ALGORITHM,
            "kv_cache_quant_algo": None,
            "group_size": _GROUP,
            "exclude_modules": kept,
            "quantized_layers": layers,
        }
        write_json(folder / "hf_quant_config.json", {"producer": producer, "quantization": said})
        weights = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": _GROUP}
        group = {"weights": weights, "targets": ["Linear"]}
        set_quantization(
            folder,
            {
                "quant_method": "modelopt",
                "quant_algo": _ALGORITHM,
                "config_groups": {"group_0": group},
                "ignore": kept,
                "quantized_layers": layers,
                "producer": producer,
            },
        )
