"""MLX, as mlx-lm loads it.

Source: `utils.py` and `models/` (`sanitize`) in https://github.com/ml-explore/mlx-lm.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arrowquant._errors import QuantizationWarning
from arrowquant._export.formats.base import Format, Model, set_quantization
from arrowquant._export.layers import Layer
from arrowquant._export.places import Target

_SWITCH = "switch_mlp"
_MODULES = {
    **dict.fromkeys(
        (
            "mixtral",
            "phimoe",
            "minimax",
            "minimax_m2",
            "qwen2_moe",
            "qwen3_moe",
            "qwen3_5_moe",
            "qwen3_5_moe_text",
            "qwen3_vl_moe",
            "qwen3_vl_moe_text",
            "olmoe",
            "deepseek_v2",
            "deepseek_v3",
            "kimi_k2",
            "glm4_moe",
            "ernie4_5_moe",
            "hunyuan",
            "jamba",
            "nemotron_h",
            "granitemoe",
            "granitemoehybrid",
        ),
        _SWITCH,
    ),
    **dict.fromkeys(("gemma4", "gemma4_text"), "experts.switch_glu"),
    **dict.fromkeys(("llama4", "llama4_text", "gpt_oss"), "experts"),
}
"""What mlx-lm calls the module that has a block's stacks, by `model_type`."""
_NAMES = {"nemotron_h": {"up": "fc1", "down": "fc2"}}
"""Projections with other names."""
_DBRX = {"gate": "w1", "up": "v1", "down": "w2"}
_EXPERTS = re.compile(r"\.experts$")
_BIAS = re.compile(r"^(?P<block>.*\.experts)\.(?P<part>gate_up|down)_proj_bias$")
_LATENT = re.compile(r"\.self_attn\.kv_b_proj\.weight$")
_NEXT = "qwen3_next"
_NESTED = ("model.language_model.", "language_model.model.")
"""How the names of nested models begin in checkpoints, and in mlx-lm."""


class Mlx(Format):
    """MLX's affine formats and floats."""

    name = "mlx"
    layout = "mlx"
    load = "mlx_lm.generate --model {path} --prompt Hello"
    takes_embeddings = True
    is_indexed = True
    tensor_absmax = 1536.0
    """For which NVFP4's tensor scale is 1: its largest scale is then 256."""

    def prepare(self, model: Model) -> None:
        """Refuse adapters, another tool's codes, and what mlx-lm changes as it stacks experts.

        Raises:
            ValueError: It is one, or there are some.
        """
        super().prepare(model)
        if _NEXT in model.config.model_types and model.experts.split:
            raise ValueError(
                f"mlx-lm changes norms and convolutions of {_NEXT} as it stacks the experts, and "
                "leaves them alone where these are stacked. Keep the experts "
                "(--keep '*.experts.*'), or convert with mlx_lm.convert."
            )

    def metadata(self, model: Model) -> dict[str, str]:
        """mlx-lm tells its own files by their format."""
        del model
        return {"format": "mlx"}

    def refuse(self, model: Model, layer: Layer) -> str | None:
        """As all; and what mlx-lm takes apart as it loads."""
        if _LATENT.search(layer.name):
            return (
                "mlx-lm takes it apart as it loads, and needs it as floats. Keep it (--keep NAME)"
            )
        return super().refuse(model, layer)

    def targets(self, model: Model, layer: Layer) -> Sequence[Target] | str | None:
        """Experts go into stacks, under the names of mlx-lm's modules."""
        if not layer.decoded and layer is model.tied_head:
            return []  # mlx-lm has no module for it, and drops but its weight.
        bias = _BIAS.match(layer.name)
        if bias and bias["block"] in model.experts.split:
            return _biases(model, layer, bias["block"], bias["part"])
        place = model.experts.place(layer)
        if place is None or place[0] not in model.experts.split:
            if layer.decoded or layer.stack is None:
                return None
            return f"it is a matrix of '{layer.stack.name}', which is no stack of experts"
        return _of_expert(model, layer, place)

    def configure(self, model: Model, folder: Path) -> None:
        """Write `quantization`, twice, as mlx-lm does.

        Warns:
            QuantizationWarning: A head is left out, which the table of embeddings is, too.
        """
        if not model.quantized:
            return
        head = model.tied_head
        if head is not None and not head.decoded:
            message = (
                f"'{head.name}' is not written: config.json ties it to the embeddings, whose bytes "
                "it has, and mlx-lm takes these for both."
            )
            warnings.warn(QuantizationWarning(message), stacklevel=5)
        ways: dict[str, list[str]] = {}
        said: dict[str, dict[str, Any]] = {}
        for layer in model.quantized:
            own = _said(layer)
            said[repr(own)] = own
            ways.setdefault(repr(own), []).extend(model.modules(layer))
        usual = max(ways, key=lambda way: len(ways[way]))
        config: dict[str, Any] = dict(said[usual])
        for way, modules in ways.items():
            if way != usual:
                config |= {_path(module): said[way] for module in sorted(set(modules))}
        set_quantization(folder, config, "quantization", "quantization_config")


def _of_expert(
    model: Model, layer: Layer, place: tuple[str, str, int, int]
) -> Sequence[Target] | str:
    """Where an expert's matrix goes."""
    block, part, index, count = place
    if not model.experts.is_complete(block, part):
        return f"'{block}' lacks some of its {count} experts, which mlx-lm has in one stack"
    if "dbrx" in model.config.model_types:
        stem = block.removesuffix(".mlp")
        return [Target(f"{stem}.{index}.{_DBRX[part]}.weight", layer.shape[0])]
    kind = next((name for name in model.config.model_types if name in _MODULES), None)
    if kind is None:
        known = model.config.model_types[:1] or ["unknown"]
        return (
            f"mlx-lm's names of experts are not known for model_type '{known[0]}'. Keep them "
            "(--keep NAME), or write them decoded"
        )
    names = next((_NAMES[x] for x in model.config.model_types if x in _NAMES), {})
    stem = f"{_EXPERTS.sub('', block)}.{_MODULES[kind]}"
    return [
        Target(f"{stem}.{names.get(own, f'{own}_proj')}.weight", rows, first, step, (index, count))
        for own, first, step, rows in model.experts.halves(block, part, layer.shape[0])
    ]


def _path(module: str) -> str:
    """A module's path in mlx-lm's model."""
    theirs, ours = _NESTED
    return ours + module.removeprefix(theirs) if module.startswith(theirs) else module


def _biases(model: Model, layer: Layer, block: str, part: str) -> Sequence[Target] | str:
    """Biases of experts, `[E, rows]`: gate's and up's apart."""
    if not model.experts.interleaved:
        return (
            "only of gpt-oss is it known how biases of experts lie. Keep its experts (--keep NAME)"
        )
    count = layer.shape[0] * layer.shape[1]
    if part == "down":
        name = f"{block}.down_proj.bias"
        return [Target(name, count, view=(count, 1), shape=tuple(layer.shape))]
    half = (layer.shape[0], layer.shape[1] // 2)
    return [
        Target(f"{block}.{own}_proj.bias", count // 2, first, 2, view=(count, 1), shape=half)
        for first, own in enumerate(("gate", "up"))
    ]


def _said(layer: Layer) -> dict[str, Any]:
    """How a layer is quantized."""
    if layer.scheme.startswith("mlx"):
        bits = int(layer.scheme.removeprefix("mlx"))
        return {"group_size": layer.group_size, "bits": bits, "mode": "affine"}
    bits = 8 if layer.scheme == "mxfp8" else 4
    size = 16 if layer.scheme == "nvfp4" else 32
    return {"group_size": size, "bits": bits, "mode": layer.scheme}
