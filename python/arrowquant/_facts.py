"""Largest magnitudes of whole layers, for schemes with one scale for all of a layer.

A part of a layer can't know it, and layers that runtimes put together share it. So a source is read
once more for the layers that need it, batch by batch, and for no others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant import _core
from arrowquant._model import fused_key
from arrowquant._options import Options
from arrowquant._scan import Scan


def groups_of(outline: pa.Table, plan: Any, options: Options) -> dict[str, list[str]]:
    """The layers that need to know a largest magnitude beside their rows' own, by what they share.

    Args:
        outline: A source's rows without their data.
        plan: What is asked of single layers; None: nothing.
        options: What is asked of all.
    """
    if not outline.num_rows:
        return {}
    if "snr_db" in outline.schema.names:
        # A quantized relation: what its layers are, not what they were quantized to.
        told = ("layer_name", "dtype", "shape", "part_count")
        outline = outline.select([name for name in told if name in outline.schema.names])
    batch = outline.combine_chunks().to_batches()[0]
    needs = _core.whole_scales(batch, plan, options)
    if not any(needs):
        return {}
    names = outline["layer_name"].to_pylist()
    counts = outline["part_count"].to_pylist() if "part_count" in outline.schema.names else []
    counts = counts or [1] * len(names)
    groups: dict[str, list[str]] = {}
    in_parts = set()
    for name, count, need in zip(names, counts, needs, strict=True):
        if need is None or name is None:
            continue
        members = groups.setdefault(fused_key(name) if need == "siblings" else name, [])
        if name not in members:
            members.append(name)
        if (count or 1) > 1:
            in_parts.add(name)
    return {
        key: members
        for key, members in groups.items()
        if len(members) > 1 or not in_parts.isdisjoint(members)
    }


def shared(groups: dict[str, list[str]], own: dict[str, float]) -> dict[str, float]:
    """The largest magnitude of each group, for each of its layers."""
    return {
        name: max(own.get(member, 0.0) for member in members)
        for members in groups.values()
        for name in members
    }


def absmax_of(source: Scan, names: Collection[str], threads: int | None) -> dict[str, float]:
    """The largest magnitude of these layers of a scan, read piece by piece."""
    wanted = pa.array(sorted(names), pa.string())
    column = source.outline()["layer_name"].cast(pa.string())
    is_wanted = pc.is_in(column, wanted).to_pylist()
    found: dict[str, float] = {}
    row = 0
    for piece in source.pieces():
        if any(is_wanted[row : row + piece.rows]):
            add(found, source.stretch(piece.file, piece.position, 1), wanted, threads)
        row += piece.rows
    return found


def add(
    found: dict[str, float], batches: Iterable[Any], wanted: pa.Array, threads: int | None
) -> None:
    """Take the magnitudes of wanted rows in; rows that can't be read are found later."""
    try:
        for batch in batches:
            some = batch.filter(pc.is_in(batch["layer_name"].cast(pa.string()), wanted))
            if not some.num_rows:
                continue
            values = _core.absmax(some, threads)
            for name, value in zip(some["layer_name"].to_pylist(), values, strict=True):
                if value is not None:
                    found[name] = max(found.get(name, 0.0), value)
    except (OSError, pa.ArrowException):
        return  # The rows themselves will say it.


_ANY = {"layer_name": ["any"], "dtype": ["F32"], "shape": [[256, 256]]}
"""A layer that any scheme takes."""


def may_need(options: Options) -> bool:
    """Whether layers that nothing else is said of may need to know anything."""
    return bool(groups_of(pa.table({**_ANY, "part_count": [2]}), None, options))


def facts(source: Scan, plan: Any, options: Options) -> dict[str, float]:
    """The largest magnitudes that the layers of a scan need to know, by layer."""
    if plan is None and "scheme" not in source.schema.names and not may_need(options):
        return {}
    groups = groups_of(source.outline(), plan, options)
    names = {name for members in groups.values() for name in members}
    return shared(groups, absmax_of(source, names, options.threads)) if names else {}
