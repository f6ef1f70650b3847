"""The meaning of every tensor of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from arrowquant._model import experts, quantized, roles
from arrowquant._model import packed as unpack
from arrowquant._model.axes import StackAxes
from arrowquant._model.config import Config
from arrowquant._model.packed.codes import Codes
from arrowquant._model.tensor import Tensor

__all__ = ["Meaning", "Tensor", "resolve"]

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_CODES = re.compile(r"(\.qweight|\.weight_packed|_blocks|_packed)$")
_ASK = (
    "Say it with stack_axis=-1 for [E, out, in] or -2 for [E, in, out] (--stack-axis), or in the "
    "plan's column stack_axis."
)


_NOTHING_SAID = StackAxes()


@dataclass(frozen=True)
class Meaning:
    """What a tensor means."""

    role: str
    keep_reason: str | None = None
    """Why it is kept where nobody asks for anything else."""
    companion_of: str | None = None
    stack: tuple[int, int | None] | None = None
    """The count and the contracted axis, if it is known, of the matrices that it is a stack of."""

    packed: Codes | None = None
    """Codes that it holds, of weights, which are read as one with their scales."""
    is_consumed: bool = False
    """Its numbers come with such codes, and it is no row of its own."""


def resolve(
    tensors: Sequence[Tensor], config: Config, axes: StackAxes = _NOTHING_SAID
) -> list[Meaning]:
    """The meaning of each of a checkpoint's tensors.

    Args:
        tensors: All of them, of all files: a tensor's meaning may lie in another one.
        config: What is said beside them.
        axes: What the user says of stacks of experts whose contracted axis can't be told.
    """
    named = {tensor.name: tensor for tensor in tensors}
    packed = quantized.find(named, config)
    codes = unpack.find(named, packed, config)
    consumed = {name for one in codes.values() for name in one.companions}
    stacks = experts.find(named, config, axes)
    count = experts.count_of(named, config)
    layers = config.number("num_hidden_layers", "n_layer")
    has_more = bool(config.number("num_nextn_predict_layers", "num_mtp_modules"))
    # A base model may lie beside an adapter's configuration.
    is_adapter = config.is_adapter and any(roles.is_adapter(name) for name in named)
    meanings = []
    for tensor, named_role in zip(tensors, named_roles(tensors, count), strict=True):
        found, role = packed.get(tensor.name), named_role
        if has_more and role != "router" and layers is not None and _is_beyond(tensor.name, layers):
            role = "mtp"
        if is_adapter:
            role = "other"
        if tensor.name in codes:
            reason = None if found is None else found.reason
            meanings.append(Meaning(role, reason, packed=codes[tensor.name]))
            continue
        if found is not None:
            role = "companion" if found.is_companion else role
            is_consumed = tensor.name in consumed
            meanings.append(
                Meaning(role, found.reason, found.companion_of, is_consumed=is_consumed)
            )
            continue
        stack = stacks.get(tensor.name)
        if stack is None:
            meanings.append(Meaning(role))
        else:
            matrices = None if stack.count is None else (stack.count, stack.axis)
            meanings.append(Meaning(role, _why_kept(stack), None, matrices))
    return meanings


def _why_kept(stack: experts.Experts) -> str | None:
    """Why a stack is kept: nobody knows how it lies, or what is known contradicts itself."""
    if stack.is_contradiction:
        return f"contradictory_stack ({stack.problem})"
    return None if stack.axis is not None else f"unknown_axis ({stack.problem}). {_ASK}"


def _is_beyond(name: str, layers: int) -> bool:
    """Whether it is of a layer after the model's last: such layers predict further tokens."""
    match = _LAYER.search(name)
    return match is not None and int(match[1]) >= layers


def named_roles(tensors: Sequence[Tensor], count: int | None) -> list[str]:
    """The role of each tensor by its name.

    Where all matrices are a vision or audio tower's, that is the model itself.
    """
    names = [_CODES.sub(".weight", tensor.name) for tensor in tensors]
    pairs = list(zip(names, (tensor.shape for tensor in tensors), strict=True))
    found = [roles.role_of(name, shape, count) for name, shape in pairs]
    matrix = 2
    matrices = {role for role, (_, shape) in zip(found, pairs, strict=True) if len(shape) >= matrix}
    if matrices & {"vision", "audio"} and "weight" not in matrices:
        return [roles.without_towers(name, shape, count) for name, shape in pairs]
    return found
