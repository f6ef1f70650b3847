"""What is asked of a checkpoint's layers, and whether two jobs ask the same of the same source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant._checkpoint.records import Manifest, Unit
from arrowquant._plan import SETTING_TYPES
from arrowquant._scan import Piece, missing_key

_SCHEMA = pa.schema(
    {
        "layer_name": pa.string(),
        "scheme": pa.string(),
        **SETTING_TYPES,
    }
)
_SHOWN = 3


def rows(plan: pa.Table) -> list[dict[str, Any]]:
    """A plan's rows as the manifest keeps them."""
    asked: list[dict[str, Any]] = plan.select(_SCHEMA.names).to_pylist()
    return asked


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """The plan of such rows."""
    return pa.Table.from_pylist(rows, _SCHEMA)


def with_searches(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A plan with the searches that another one has for the same layers in the same schemes."""
    known = {(row["layer_name"], row["scheme"]): row["search"] for row in before}
    key = itemgetter("layer_name", "scheme")
    return [row | {"search": known.get(key(row), row["search"])} for row in rows]


_OWN = set(_SCHEMA.names) - {"layer_name"}


def without_table_columns(rows: Any) -> Any:
    """A source's table or batch without plan columns."""
    names = [name for name in rows.schema.names if name in _OWN]
    return rows.drop_columns(names) if names else rows


def without_columns(schema: pa.Schema) -> pa.Schema:
    """A source's schema without plan columns: they are in the resolved plan, which alone counts."""
    return pa.schema([field for field in schema if field.name not in _OWN], schema.metadata)


def is_named(rules: pa.Table | None, layer: str) -> bool:
    """Whether a rule other than one for all names a layer."""
    patterns = [] if rules is None else rules["layer_name"].to_pylist()
    return any(
        pattern == layer or (pattern != "*" and fnmatchcase(layer, pattern))
        for pattern in patterns
        if pattern is not None
    )


def names_in(manifest: Manifest, units: Iterable[int], outline: pa.Table) -> set[str]:
    """The layers of the files that units are of."""
    wanted = set(units)
    files = {unit.file for unit in manifest.units if unit.index in wanted}
    return names_of_files(files, outline)


def names_of_files(files: Iterable[str], outline: pa.Table) -> set[str]:
    """The layers of these files."""
    column = outline["source_file"].cast(pa.string())
    chosen = outline.filter(pc.is_in(column, pa.array(sorted(files), pa.string())))
    return {name for name in chosen["layer_name"].to_pylist() if name is not None}


def add_late_files(manifest: Manifest, fresh: Manifest, outline: pa.Table) -> None:
    """Put the units of files that were missing at first in the place of those that said so.

    They are counted on from the last unit, so that all other rows keep their indices.
    """
    there = {name: (name, size, modified) for name, size, modified in fresh.files}
    late_files = {
        name
        for name, size, _ in manifest.files
        if size is None and there.get(name, (name, None, None))[1] is not None
    }
    if not late_files:
        return
    index = max(unit.index for unit in manifest.units) + 1
    row = max(unit.first_row + unit.rows for unit in manifest.units)
    holes = set(map(missing_key, late_files))
    gone = {unit.index for unit in manifest.units if unit.file in holes}
    new: list[Unit] = []
    for unit in fresh.units:
        if unit.file in late_files | holes:  # It may still lack tensors.
            new.append(replace(unit, index=index + len(new), first_row=row))
            row += unit.rows
    manifest.units = [unit for unit in manifest.units if unit.index not in gone] + new
    manifest.parts = [part for part in manifest.parts if part.unit not in gone]
    manifest.files = [there[file[0]] if file[0] in late_files else file for file in manifest.files]
    # What is there now has a dtype and a shape, which the plan of what was missing could not know.
    layers = names_of_files(late_files, outline)
    before = {row["layer_name"]: row for row in manifest.plan}
    manifest.plan = [
        row if row["layer_name"] in layers else before.get(row["layer_name"], row)
        for row in fresh.plan
    ]
    manifest.late_units += [unit.index for unit in new]


def changed_files(manifest: Manifest, fresh: Manifest) -> list[str]:
    """The files that were and are there, and have another time or size."""
    there, here = ({name: rest for name, *rest in m.files} for m in (manifest, fresh))
    return [
        name
        for name, before in there.items()
        if before[0] is not None and here.get(name, before) != before and here[name][0] is not None
    ]


def places(manifest: Manifest) -> tuple[dict[str, int], set[str]]:
    """Where in the source each layer was; and the files that were not there to say it."""
    places = {row["layer_name"]: at for at, row in enumerate(manifest.plan)}
    return places, {name for name, size, _ in manifest.files if size is None}


def other_layers(
    manifest: Manifest, fresh: Manifest, pieces: Sequence[Piece], names: Iterable[str]
) -> list[str]:
    """The changed files that have other layers than they had, or other numbers of parts; worded."""
    files = ", ".join(names)
    before, after = ([row["layer_name"] for row in m.plan] for m in (manifest, fresh))
    if Counter(before) != Counter(after):
        what = [f"no '{name}' any more" for name in Counter(before) - Counter(after)]
        what += [f"a new '{name}'" for name in Counter(after) - Counter(before)]
        return [f"{files}: holds other layers than it did: {', '.join(what[:_SHOWN])}"]
    if before != after:
        return [
            f"{files}: holds its layers in another order than it did, and rows of a table are "
            "not put in order"
        ]
    sums, wanted = _sums(manifest, pieces), set(names)
    own = [unit for unit in manifest.units if unit.file in wanted]
    if sums is None or any((unit.rows, unit.layers) != sums[unit.index][:2] for unit in own):
        return [f"{files}: a layer has another number of parts or another row group than it had"]
    return []


def _sums(manifest: Manifest, pieces: Sequence[Piece]) -> dict[int, tuple[int, int, int]] | None:
    """The rows, layers and bytes that the source has now for each unit.

    Nothing where the units are not all of its pieces, each once.
    """
    by_file: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_file.setdefault(piece.file, []).append(piece)
    found, ends = {}, dict.fromkeys(by_file, 0)
    for unit in sorted(manifest.units, key=lambda unit: (unit.file, unit.position)):
        if unit.position != ends.get(unit.file, 0):
            return None
        own = by_file.get(unit.file, [])[unit.position : unit.position + unit.pieces]
        ends[unit.file] = unit.position + unit.pieces
        found[unit.index] = (
            sum(piece.rows for piece in own),
            sum(piece.layers for piece in own),
            sum(piece.bytes for piece in own),
        )
    is_all = all(ends[file] == len(own) for file, own in by_file.items())
    return found if is_all else None


def accept_files(
    manifest: Manifest, fresh: Manifest, pieces: Sequence[Piece], names: Iterable[str]
) -> None:
    """Take over what these files are now: their good layers are what they were."""
    here = {file[0]: file for file in fresh.files}
    wanted, sums = set(names), _sums(manifest, pieces)
    manifest.files = [here[file[0]] if file[0] in wanted else file for file in manifest.files]
    manifest.units = [
        replace(unit, bytes=sums[unit.index][2]) if sums and unit.file in wanted else unit
        for unit in manifest.units
    ]


def accept_plan(manifest: Manifest, fresh: Manifest, layers: set[str]) -> None:
    """Take over the plan of these layers: they may be of another type or shape now."""
    manifest.plan = [
        after if after["layer_name"] in layers else before
        for before, after in zip(manifest.plan, fresh.plan, strict=True)
    ]


_TABLES = {
    (True, True): "another table there than here",
    (True, False): "a table there, none here",
    (False, True): "no table there, one here",
}
"""How the tables of importance of two jobs differ, by whether they have one."""


def differences(manifest: Manifest, fresh: Manifest, pieces: Sequence[Piece]) -> list[str]:
    """What keeps a job from going on with what another began: all that would change bytes."""
    found = [
        f"{name}: {manifest.settings.get(name)!r} there, {value!r} here"
        for name, value in fresh.settings.items()
        if (manifest.settings.get(name) or None) != (value or None)
    ]
    before, now = (m.request.get("importance") for m in (manifest, fresh))
    if before != now:
        found.append(f"importance: {_TABLES[before is not None, now is not None]}")
    there, here = ({name: rest for name, *rest in m.files} for m in (manifest, fresh))
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            found.append(
                f"source file {name}: {_file(there, name)} there, {_file(here, name)} here"
            )
    changed = [
        (before, after)
        for before, after in zip(manifest.plan, fresh.plan, strict=False)
        if before != after
    ]
    for before, after in changed[:_SHOWN]:
        found.append(f"layer '{after['layer_name']}': {_asked(before)} there, {_asked(after)} here")
    if len(changed) > _SHOWN:
        found.append(f"{len(changed) - _SHOWN} more layers likewise")
    if len(manifest.plan) != len(fresh.plan):
        found.append(f"layers: {len(manifest.plan)} there, {len(fresh.plan)} here")
    if not found and not _are_accounted_for(manifest, pieces):
        found.append("units: the manifest does not account for the source, it was damaged")
    return found


def _are_accounted_for(manifest: Manifest, pieces: Sequence[Piece]) -> bool:
    """Whether the units are the source's, each piece once."""
    if not pieces:
        return all(unit.rows == 0 for unit in manifest.units)
    sums = _sums(manifest, pieces)
    return sums is not None and all(
        (unit.rows, unit.layers, unit.bytes) == sums[unit.index] for unit in manifest.units
    )


def _file(files: dict[str, list[int | None]], name: str) -> str:
    size, modified = files.get(name, [None, None])
    return "missing" if size is None else f"{size:,} bytes of time {modified}"


def _asked(row: dict[str, Any]) -> str:
    if row["scheme"] == "none":
        return "kept"
    said = {name: row[name] for name in SETTING_TYPES if row[name] is not None}
    return ", ".join([row["scheme"], *(f"{name} {value}" for name, value in said.items())])
