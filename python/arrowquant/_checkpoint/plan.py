"""What is asked of a checkpoint's layers, and whether two jobs ask the same of the same source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant._checkpoint.records import Manifest, Unit
from arrowquant._scan import missing_key

_SCHEMA = pa.schema(
    {
        "layer_name": pa.string(),
        "scheme": pa.string(),
        "group_size": pa.int64(),
        "is_symmetric": pa.bool_(),
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
    return _names_of_files(files, outline)


def _names_of_files(files: set[str], outline: pa.Table) -> set[str]:
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
    layers = _names_of_files(late_files, outline)
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


def accept_files(manifest: Manifest, fresh: Manifest, names: Iterable[str]) -> None:
    """Take over what these files are now: their contents are what they were."""
    here = {file[0]: file for file in fresh.files}
    wanted = set(names)
    manifest.files = [here[file[0]] if file[0] in wanted else file for file in manifest.files]


def differences(manifest: Manifest, fresh: Manifest) -> list[str]:
    """What keeps a job from going on with what another began: all that would change bytes."""
    found = [
        f"{name}: {manifest.settings.get(name)!r} there, {value!r} here"
        for name, value in fresh.settings.items()
        if manifest.settings.get(name) != value
    ]
    there, here = ({name: rest for name, *rest in m.files} for m in (manifest, fresh))
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            found.append(
                f"source file {name}: {_file(there, name)} there, {_file(here, name)} here"
            )
    if manifest.plan != fresh.plan and _sorted(manifest.plan) == _sorted(fresh.plan):
        return [
            *found,
            "the source has its layers in another order than when the job began, since a file was "
            "written anew",
        ]
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
    if not found and _stretches(manifest) != _stretches(fresh):
        found.append("units: the manifest does not account for the source, it was damaged")
    return found


def _sorted(plan: list[dict[str, Any]]) -> list[str]:
    return sorted(str(row) for row in plan)


def _stretches(manifest: Manifest) -> list[tuple[Any, ...]]:
    """What the units are of, in whatever order they were counted."""
    return sorted(
        (unit.file, unit.position, unit.pieces, unit.rows, unit.layers, unit.bytes)
        for unit in manifest.units
    )


def _file(files: dict[str, list[int | None]], name: str) -> str:
    size, modified = files.get(name, [None, None])
    return "missing" if size is None else f"{size:,} bytes of time {modified}"


def _asked(row: dict[str, Any]) -> str:
    if row["scheme"] == "none":
        return "kept"
    kind = "symmetric" if row["is_symmetric"] else "asymmetric"
    return f"{row['scheme']} {kind}, group {row['group_size']}"
