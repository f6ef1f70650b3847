"""From a checkpoint's layers to a runtime's tensors: planned over the whole model, then made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._export.layers import Layer
from arrowquant._export.places import Target
from arrowquant._export.shards import Tensor
from arrowquant._inputs import named_runs

if TYPE_CHECKING:
    from arrowquant._export.formats.base import Format, Model

_SHOWN = 8


@dataclass
class Plan:
    """What will be written."""

    core: Any
    """The core's exporter."""
    groups: list[list[Tensor]] = field(default_factory=list)
    """Tensors that stay in one file."""
    encoded: set[str] = field(default_factory=set)
    """The layers that become codes."""
    placed: set[str] = field(default_factory=set)
    """The layers that are written as numbers, in other places than they had."""


def plan(form: Format, model: Model) -> Plan:
    """Find every tensor that will be written, before any is.

    Raises:
        ValueError: The format can't hold some layers; the message names them.
    """
    if form.layout is None:
        decoded = {layer.tensor[0]: layer.tensor for layer in model.layers.layers}
        return Plan(None, [[tensor] for tensor in decoded.values()])
    form.check_kind(model.origin)
    form.prepare(model)
    found, why = _planned(form, model)
    if not why and form.needs_parameters(model) and found.encoded:
        why |= _parameters(found, model)
    _raise(form, model, why)
    return found


def refusals(form: Format, model: Model) -> dict[str, str]:
    """The layers that the format can't hold, and why; their parameters are not looked at.

    Raises:
        ValueError: No loader takes the checkpoint.
    """
    if form.layout is None:
        return {}
    form.check_kind(model.origin)
    form.prepare(model)
    return _planned(form, model)[1]


def _planned(form: Format, model: Model) -> tuple[Plan, dict[str, str]]:
    """What will be written, and the layers that can't be, with the reasons."""
    refused: dict[str, str] = {}
    for layer in model.layers.layers:
        why = None if layer.decoded else form.refuse(model, layer)
        targets = None if why is not None else form.targets(model, layer)
        if why is None and isinstance(targets, str):
            why, targets = targets, None
        if why is not None:
            refused[layer.name] = why
        elif not isinstance(targets, str):
            model.targets[layer.name] = targets
    found = Plan(form.layout and _core.Exporter(form.layout))
    tensors: dict[str, Tensor] = {}
    for layer in model.layers.layers:
        if layer.name not in refused:
            why = _add(found, model, layer, tensors)
            if why is not None:
                refused[layer.name] = why
    if not refused:
        refused |= form.together(model)
    return found, refused


def _add(found: Plan, model: Model, layer: Layer, tensors: dict[str, Tensor]) -> str | None:
    """Add the tensors of a layer to those that are known; or say why it can't be written."""
    targets = model.targets[layer.name]
    if layer.decoded and targets is None:
        return _announce(found, tensors, [layer.tensor], layer)
    (found.placed if layer.decoded else found.encoded).add(layer.name)
    if targets is None:
        targets = [Target(layer.name, layer.shape[0])]
    said = layer.said
    for target in targets:
        if target.view is not None:
            said = replace(said, shape=list(target.view))
    each: list[list[Tensor]]
    why: str | None
    each, why = found.core.add(said, targets)
    for target, specs in zip(targets, each, strict=False):
        shaped = [
            (name, dtype, list(target.shape) if target.shape and name == target.name else shape)
            for name, dtype, shape in specs
        ]
        why = why or _announce(found, tensors, shaped, layer)
    return why


def _announce(
    found: Plan, tensors: dict[str, Tensor], specs: Sequence[Tensor], layer: Layer
) -> str | None:
    new = []
    for spec in specs:
        known = tensors.setdefault(spec[0], spec)
        if known is spec:
            new.append(spec)
        elif known != spec:
            return (
                f"it goes into '{spec[0]}' with others, which are quantized otherwise. Give all of "
                f"them one scheme and settings ({layer.scheme} here)"
            )
    if new:
        found.groups.append(new)
    return None


def _parameters(found: Plan, model: Model) -> dict[str, str]:
    """The layers whose scales and zero points the format can't say, and why."""
    refused: dict[str, str] = {}
    relation = model.relation
    for batch in relation.without_codes() if isinstance(relation, Dataset) else relation:
        for rows in named_runs(batch, found.encoded):
            for name, why in found.core.check(rows):
                refused.setdefault(name, why)
    return refused


def _raise(form: Format, model: Model, refused: dict[str, str]) -> None:
    if not refused:
        return
    layers = {layer.name: layer for layer in model.layers.layers}
    alike: dict[str, list[str]] = {}
    for name, why in refused.items():
        alike.setdefault(why, []).append(name)
    lines = []
    for why, names in list(alike.items())[:_SHOWN]:
        layer = layers[names[0]]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"layer '{layer.name}' ({layer.scheme}, {layer.shape}){more}: {why}.")
    others = f"\n... and {len(alike) - _SHOWN} more reasons" if len(alike) > _SHOWN else ""
    raise ValueError(
        f"{form.name} can't hold {len(refused)} layers. Quantize anew with another scheme, or a "
        "plan that keeps them (--overwrite); or write them decoded: decode=[...] (--decode GLOB).\n"
        + "\n".join(lines)
        + others
    )


def batches(
    found: Plan, model: Model, relation: Iterable[pa.RecordBatch], threads: int | None
) -> Iterator[pa.RecordBatch]:
    """The rows that a writer puts into their places, of the relation's batches."""
    decoded = {layer.name: layer for layer in model.layers.layers if layer.decoded}
    # What is kept is written as it is; calls for many small layers take longer than their bytes.
    kept = {name for name, layer in decoded.items() if layer.scheme == "none"}
    kept_in_place, kept_elsewhere = kept - found.placed, kept & found.placed
    in_place = decoded.keys() - kept - found.placed
    elsewhere = found.placed - kept
    for batch in relation:
        yield from named_runs(batch, kept_in_place)
        for rows in named_runs(batch, kept_elsewhere):
            yield pa.record_batch(found.core.plain(rows))
        for rows in named_runs(batch, in_place):
            yield decode(rows, threads)
        for rows in named_runs(batch, elsewhere):
            yield pa.record_batch(found.core.plain(decode(rows, threads)))
        for rows in named_runs(batch, found.encoded):
            yield pa.record_batch(found.core.tensors(rows))


def decode(batch: pa.RecordBatch, threads: int | None) -> pa.RecordBatch:
    """The weights of one batch."""
    (weights, _, _), _ = _core.dequantize(batch, "source", threads, False)
    return pa.record_batch(weights[0])
