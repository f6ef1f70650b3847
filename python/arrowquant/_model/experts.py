"""Stacks of experts: which tensors are some, and which of a matrix's axes is contracted.

A linear layer contracts the last axis of `[out, in]`. Stacks come as `[E, out, in]`, or turned
around as `[E, in, out]`; shapes tell which only where two matrices of an expert are seen together,
so that architectures are listed here. Sources: transformers' `conversion_mapping.py` and models;
llama.cpp's and mlx-lm's names, which are always `[E, out, in]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from arrowquant._model.axes import StackAxes
from arrowquant._model.config import Config
from arrowquant._model.tensor import Tensor, is_float

_DIMENSIONS = 3
_MOST = 1 << 16
_LAST, _TURNED = -1, -2

_FUSED = re.compile(
    r"^(?P<block>.*experts)\.(?P<part>gate_up|gate|up|down)_proj(\.weight)?$"
    r"|^(?P<block2>.*experts)\.(?P<part2>w13|w2|w1|w3)_weight$"
    r"|^(?P<block3>.*(moe|experts?)(\.\w+)?)\.(?P<part3>input_linear|output_linear|fc1|fc2)\.weight$"
)
_ORDERED = re.compile(
    r"^(?P<block>.*\.)(ffn_(?P<part>gate_up|gate|up|down)_exps"
    r"|switch_(mlp|glu)\.(?P<part2>gate_up|gate|up|down)_proj)\.weight$"
)
"""llama.cpp's and mlx-lm's."""
_FLAT = re.compile(r"^(?P<block>.*experts\.mlp)\.(?P<part>w1|v1|w2)$")
"""DBRX: matrices one below the other, in two dimensions."""
_SINGLE = re.compile(r"^(.*experts)\.(\d+)\.")

_NAMES = {
    "w13": "gate_up",
    "w1": "gate",
    "w3": "up",
    "w2": "down",
    "input_linear": "gate_up",
    "output_linear": "down",
    "fc1": "up",
    "fc2": "down",
}

_COUNTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
)

_AXES = {
    "llama4": _TURNED,
    "llama4_text": _TURNED,
    "gpt_oss": _TURNED,
    "qwen3_5_moe": _LAST,
    "qwen3_5_moe_text": _LAST,
    "gemma4": _LAST,
    "gemma4_text": _LAST,
    "granitemoe": _LAST,
    "granitemoehybrid": _LAST,
    "granitemoeshared": _LAST,
    "mixtral": _LAST,
    "phimoe": _LAST,
    "minimax_m2": _LAST,
    "qwen2_moe": _LAST,
    "qwen3_moe": _LAST,
    "qwen3_next": _LAST,
    "deepseek_v2": _LAST,
    "deepseek_v3": _LAST,
    "glm4_moe": _LAST,
    "olmoe": _LAST,
    "ernie4_5_moe": _LAST,
    "hunyuan_v1_moe": _LAST,
    "jamba": _LAST,
}
"""The axis that is contracted in fused experts, by `model_type`."""
_EITHER = {"qwen3_vl_moe", "qwen3_vl_moe_text"}
"""Written in both layouts under the same names: the pair of shapes decides."""


_INTERLEAVED = {"gpt_oss"}
"""Models whose rows of gate and up take turns."""


def part_of(stack: str) -> tuple[str, str] | None:
    """The block of a stack of experts, and which of its matrices these are, by its name."""
    match = _FUSED.match(stack)
    if match is not None:
        return _block_and_part(match)
    ordered = _ORDERED.match(stack)
    if ordered is not None:
        return ordered["block"].rstrip("."), ordered["part"] or ordered["part2"]
    flat = _FLAT.match(stack)
    return None if flat is None else (flat["block"], _NAMES.get(flat["part"], "up"))


def is_known(config: Config) -> bool:
    """Whether it is known how the model's fused experts lie: gate before up, or in turns."""
    return any(name in _AXES or name in _EITHER for name in config.model_types)


def is_interleaved(config: Config) -> bool:
    """Whether rows of gate and up take turns in their matrix."""
    return any(name in _INTERLEAVED for name in config.model_types)


@dataclass(frozen=True)
class Experts:
    """What is known of a stack."""

    count: int | None
    """How many matrices; None where that can't be told."""
    axis: int | None
    """-1 or -2; None where it can't be told."""
    problem: str | None = None
    """Why it can't be told."""
    is_contradiction: bool = False
    """What is known contradicts itself, so that nobody can say it, either."""


def count_of(tensors: Mapping[str, Tensor], config: Config) -> int | None:
    """How many experts a layer has, as far as configuration or names say."""
    said = config.number(*_COUNTS)
    if said:
        return said
    indices = [int(match[2]) for name in tensors if (match := _SINGLE.match(name))]
    if indices:
        return max(indices) + 1
    stacks = {
        tensor.shape[0]
        for name, tensor in tensors.items()
        if len(tensor.shape) == _DIMENSIONS and (_FUSED.match(name) or _ORDERED.match(name))
    }
    return stacks.pop() if len(stacks) == 1 else None


def find(tensors: Mapping[str, Tensor], config: Config, axes: StackAxes) -> dict[str, Experts]:
    """The stacks among a checkpoint's tensors.

    Args:
        tensors: All of the checkpoint, by name.
        config: What is said beside them.
        axes: What the user says of stacks whose axis can't be told.
    """
    found: dict[str, Experts] = {}
    blocks: dict[str, dict[str, Tensor]] = {}
    single = {match[1] for name in tensors if (match := _SINGLE.match(name))}
    experts = config.number(*_COUNTS) or None
    for name, tensor in tensors.items():
        if not is_float(tensor.dtype) or 0 in tensor.shape:
            continue
        if tensor.shape[:1] > [_MOST]:  # It lies.
            continue
        if len(tensor.shape) == _DIMENSIONS and _ORDERED.match(name):
            found[name] = Experts(tensor.shape[0], _LAST)
        elif len(tensor.shape) == _DIMENSIONS and (match := _FUSED.match(name)):
            block, part = _block_and_part(match)
            blocks.setdefault(block, {})[part] = tensor
        elif len(tensor.shape) == 2 and (match := _FLAT.match(name)):  # noqa: PLR2004
            found[name] = _flat(tensor, match["part"], experts)
    for block, parts in blocks.items():
        problem = _contradiction({p: t.shape for p, t in parts.items()}, config, experts)
        if block in single:
            problem = "its block has single experts, too"
        is_contradiction, axis = problem is not None, None
        if problem is None:
            axis, problem = _axis({p: t.shape for p, t in parts.items()}, config)
        for tensor in parts.values():
            told = axis
            if axis is None and not is_contradiction:
                told = axes.of(tensor.name)
            why = problem if told is None else None
            found[tensor.name] = Experts(tensor.shape[0], told, why, is_contradiction)
    return found


def _block_and_part(match: re.Match[str]) -> tuple[str, str]:
    block = match["block"] or match["block2"] or match["block3"]
    part = match["part"] or match["part2"] or match["part3"]
    return block, _NAMES.get(part, part)


def _flat(tensor: Tensor, part: str, experts: int | None) -> Experts:
    """DBRX's: `w1` and `v1` are `[out, in]` an expert, `w2` is turned around."""
    if not experts or tensor.shape[0] % experts:
        return Experts(None, None, "config.json doesn't say of how many experts", True)
    return Experts(experts, _TURNED if part == "w2" else _LAST)


def _contradiction(
    shapes: Mapping[str, list[int]], config: Config, experts: int | None
) -> str | None:
    """What about a block's stacks contradicts itself, or the model's type."""
    counts = {shape[0] for shape in shapes.values()}
    if len(counts) > 1 or (experts is not None and counts != {experts}):
        said = f", config.json says {experts}" if experts is not None else ""
        return f"its stacks have {sorted(counts)} matrices{said}"
    if not {"gate_up", "down"} <= shapes.keys():
        return None
    pair, known = _pair(shapes["gate_up"], shapes["down"]), _known_axis(config)
    if pair is None and _is_undescribed(shapes, config):
        return None
    if pair is None:
        return f"{shapes['gate_up']} and {shapes['down']} fit no layout of gate_up and down"
    is_either = any(name in _EITHER for name in config.model_types)
    if known is not None and known != pair and not is_either:
        return f"{shapes['gate_up']} is not the layout of model_type {config.model_types[0]!r}"
    return None


def _is_undescribed(shapes: Mapping[str, list[int]], config: Config) -> bool:
    """Whether nothing is said of the model, and `down` maps back what `gate_up` maps.

    Then each is a matrix as it lies, as linear layers are. Gate and up can't be told apart.
    """
    if config.values or not {"gate_up", "down"} <= shapes.keys():
        return False
    (_, a, b), (_, c, d) = shapes["gate_up"], shapes["down"]
    return (a, b) == (d, c)


def _known_axis(config: Config) -> int | None:
    return next((_AXES[name] for name in config.model_types if name in _AXES), None)


def _axis(shapes: Mapping[str, list[int]], config: Config) -> tuple[int | None, str | None]:
    """The contracted axis of a block's stacks, or why it can't be told."""
    if "gate_up" not in shapes:
        return _without_fused(shapes, config.number("hidden_size", "d_model", "n_embd"))
    if "down" not in shapes:
        return None, "it is alone: its block has no down_proj to compare it with"
    if any(name in _EITHER for name in config.model_types):
        return _pair(shapes["gate_up"], shapes["down"]), None
    known = _known_axis(config)
    if known is not None:
        return known, None
    if _is_undescribed(shapes, config):
        return _LAST, None
    name = next(iter(config.model_types), None)
    if name is None:
        why = "no config.json says which model it is"
    else:
        why = f"the layout of model_type {name!r} is not known"
    return None, why


def _pair(gate_up: list[int], down: list[int]) -> int | None:
    """The axis that shapes `[E, a, b]` and `[E, c, d]` allow: never both."""
    (_, a, b), (_, c, d) = gate_up, down
    if a == 2 * d and b == c:
        return _LAST
    if a == d and b == 2 * c:
        return _TURNED
    return None


def _without_fused(
    shapes: Mapping[str, list[int]], hidden: int | None
) -> tuple[int | None, str | None]:
    """Stacks of single projections: the model's width says which axis is which."""
    axes = set()
    for part, (_, rows, columns) in shapes.items():
        if hidden is None or rows == columns or hidden not in {rows, columns}:
            return None, "its shapes don't say which axis is the model's width"
        into = columns == hidden
        axes.add(_LAST if into != (part == "down") else _TURNED)
    return (axes.pop(), None) if len(axes) == 1 else (None, "its stacks have several layouts")
