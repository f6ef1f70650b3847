"""What layers need to know of more than their own rows.

The largest magnitude of all of a layer, for schemes with one scale for it: a part can't know it,
and layers that runtimes put together share it. And how much columns matter by the weights of all
of a layer, for weighted searches: a part's own rows would say it otherwise. So a source is read
once more for the layers that need it, batch by batch, and for no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant import _core
from arrowquant._importance import Importance
from arrowquant._model import fused_key
from arrowquant._options import Options
from arrowquant._scan import Scan


@dataclass(frozen=True)
class Needs:
    """Which layers need to know what."""

    absmax: dict[str, list[str]] = field(default_factory=dict)
    """Those that need a largest magnitude beside their rows' own, by what they share."""
    columns: frozenset[str] = frozenset()
    """Those in parts whose columns matter by the weights of all of them."""


def needs_of(outline: pa.Table, plan: Any, options: Options) -> Needs:
    """What the layers of a source need to know.

    Args:
        outline: A source's rows without their data.
        plan: What is asked of single layers; None: nothing.
        options: What is asked of all.
    """
    needs = _needs_of_rows(outline, plan, options)
    names = outline["layer_name"].to_pylist()
    flags = is_part(outline).to_pylist()
    in_parts = {name for name, is_one in zip(names, flags, strict=True) if is_one}
    groups: dict[str, list[str]] = {}
    columns = set()
    for name, (absmax, is_weighed) in zip(names, needs, strict=True):
        if name is None:
            continue
        if is_weighed and name in in_parts:
            columns.add(name)
        if absmax is not None:
            members = groups.setdefault(fused_key(name) if absmax == "siblings" else name, [])
            if name not in members:
                members.append(name)
    groups = {
        key: members
        for key, members in groups.items()
        if len(members) > 1 or not in_parts.isdisjoint(members)
    }
    return Needs(groups, frozenset(columns - _ambiguous(outline, columns)))


def is_part(outline: pa.Table) -> Any:
    """Whether each row is a part of its layer; a column of that name may be of something else."""
    names = outline.schema.names
    if "part_count" not in names or not pa.types.is_integer(
        outline.schema.field("part_count").type
    ):
        return pa.chunked_array([pa.repeat(False, outline.num_rows)])
    return pc.fill_null(pc.greater(outline["part_count"], 1), False)


def _ambiguous(outline: pa.Table, names: Collection[str]) -> set[str]:
    """Those of some names that several layers have."""
    if not names or "part_index" not in outline.schema.names:
        return set()
    is_first = pc.equal(pc.fill_null(outline["part_index"], 0), 0)
    counts = Counter(outline.filter(is_first)["layer_name"].to_pylist())
    return {name for name in names if counts[name] > 1}


def _needs_of_rows(outline: pa.Table, plan: Any, options: Options) -> list[tuple[str | None, bool]]:
    if not outline.num_rows:
        return []
    if "snr_db" in outline.schema.names:
        # A quantized relation: what its layers are, not what they were quantized to.
        told = ("layer_name", "dtype", "shape", "part_count")
        outline = outline.select([name for name in told if name in outline.schema.names])
    return _core.whole_facts(outline.combine_chunks().to_batches()[0], plan, options)


def weighed_of(source: Scan, plan: Any, options: Options) -> list[str]:
    """The layers of a scan that are searched with weights, once each."""
    outline = source.outline()
    needs = _needs_of_rows(outline, plan, replace(options, importance=None))
    pairs = zip(outline["layer_name"].to_pylist(), needs, strict=True)
    names = (name for name, (_, is_weighed) in pairs if is_weighed and name is not None)
    return list(dict.fromkeys(names))


def shared(groups: dict[str, list[str]], own: dict[str, float]) -> dict[str, float]:
    """The largest magnitude of each group, for each of its layers."""
    return {
        name: max(own.get(member, 0.0) for member in members)
        for members in groups.values()
        for name in members
    }


def absmax_of(source: Scan, names: Collection[str], threads: int | None) -> dict[str, float]:
    """The largest magnitude of these layers of a scan, read piece by piece."""
    found: dict[str, float] = {}
    for _, batches in _stretches(source, names):
        add(found, batches, _array(names), threads)
    return found


def with_columns(
    options: Options, names: Collection[str], stretches: Iterable[_Stretch]
) -> Options:
    """The options with how much the columns of these layers matter by their weights."""
    if not names:
        return options
    found, unread = _core.ColumnMoments(), set[str]()
    for own, batches in stretches:
        try:
            for batch in batches:
                some = batch.filter(pc.is_in(batch["layer_name"].cast(pa.string()), _array(names)))
                if some.num_rows:
                    found.add(some, options.threads)
        except (OSError, pa.ArrowException):
            # The rows themselves will say it. What is known is not of all of them.
            unread.update(own)
    table = pa.table(pa.record_batch(found.table()))
    table = table.filter(pc.invert(pc.is_in(table["layer_name"], _array(unread))))
    return replace(options, suggested=Importance.read(table))


_Stretch: TypeAlias = tuple[Collection[str], Iterable[pa.RecordBatch]]
"""Batches, and which of some layers they have."""


def _stretches(source: Scan, names: Collection[str]) -> Iterator[_Stretch]:
    """The pieces of a scan that have rows of these layers, and which they have."""
    column = source.outline()["layer_name"].to_pylist()
    row, wanted = 0, set(names)
    for piece in source.pieces():
        own = wanted.intersection(column[row : row + piece.rows])
        if own:
            yield own, source.stretch(piece.file, piece.position, 1)
        row += piece.rows


def _array(names: Collection[str]) -> pa.Array:
    return pa.array(sorted(names), pa.string())


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


def may_need(options: Options) -> Needs:
    """What layers that nothing else is said of may need to know."""
    return needs_of(pa.table({**_ANY, "part_count": [2]}), None, options)


def facts(source: Scan, plan: Any, options: Options) -> Options:
    """The options with what the layers of a scan need to know."""
    has_own = plan is not None or "scheme" in source.schema.names
    may = None if has_own else may_need(options)
    if may == Needs():
        return options
    outline = source.outline()
    if may is not None and not may.absmax:
        # Of vectors there may be millions, and none is in parts.
        outline = outline.filter(is_part(outline))
    needs = needs_of(outline, plan, options)
    names = {name for members in needs.absmax.values() for name in members}
    if names:
        own = absmax_of(source, names, options.threads)
        options = replace(options, absmax=shared(needs.absmax, own))
    return with_columns(options, needs.columns, _stretches(source, needs.columns))
