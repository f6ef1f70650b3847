"""Layers that loaders put into one matrix, or look at together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

from arrowquant._errors import QuantizationWarning
from arrowquant._export.layers import Layer
from arrowquant._model import TOGETHER, fused_key

_FUSED_NAMES = {
    ("q_proj", "k_proj", "v_proj"): "qkv_proj",
    ("gate_proj", "up_proj"): "gate_up_proj",
}
"""What vLLM calls them once they are together."""


def sets_of(layers: Sequence[Layer]) -> list[list[Layer]]:
    """The layers that go together, of sets with more than one."""
    sets: dict[str, list[Layer]] = {}
    for layer in layers:
        sets.setdefault(fused_key(layer.name), []).append(layer)
    return [members for members in sets.values() if len(members) > 1]


def warn_of_differences(layers: Sequence[Layer]) -> None:
    """Name layers that vLLM puts together though they are quantized differently.

    Warns:
        QuantizationWarning: There are some.
    """
    different = [members for members in sets_of(layers) if len({x.way for x in members}) > 1]
    if different:
        own = [layer.module.rpartition(".")[2] for layer in different[0]]
        names = "/".join(next((x for x in TOGETHER if set(x) == set(own)), own))
        parent = different[0][0].module.rpartition(".")[0]
        message = (
            f"vLLM puts {parent}.{names} together and takes one scheme for them, but they have "
            f"several ({len(different)} such). transformers loads them as they are."
        )
        warnings.warn(QuantizationWarning(message), stacklevel=6)


def tensor_scales_apart(layers: Sequence[Layer]) -> Iterator[tuple[str, str]]:
    """Layers that share a matrix in the runtime, with tensor scales that differ; and why not."""
    for members in sets_of(layers):
        scales = {layer.tensor_scale for layer in members if not layer.decoded}
        if len(scales) > 1:
            names = ", ".join(layer.module.rpartition(".")[2] for layer in members)
            yield (
                members[0].name,
                f"loaders take one tensor scale for {names}, and they have {len(scales)}. "
                "Quantize them again, together (--scheme nvfp4)",
            )


def with_fused(kept: Sequence[str]) -> list[str]:
    """Modules under their own names, and sets of them under those that vLLM gives them."""
    modules = set(kept)
    fused = set()
    for names, together in _FUSED_NAMES.items():
        for module in modules:
            parent, _, own = module.rpartition(".")
            if own == names[0] and all(f"{parent}.{name}" in modules for name in names):
                fused.add(f"{parent}.{together}")
    return sorted(modules | fused)
