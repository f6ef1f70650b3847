"""What is asked of a checkpoint's layers, and whether two jobs ask the same."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from arrowquant._checkpoint.manifest import Manifest

_ASKED = ("layer_name", "scheme", "group_size", "is_symmetric")
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
    asked: list[dict[str, Any]] = plan.select(list(_ASKED)).to_pylist()
    return asked


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """The plan of such rows; those of layers of one name are the same, or it is refused."""
    return pa.Table.from_pylist(rows, _SCHEMA)


def differences(manifest: Manifest, plan: list[dict[str, Any]], other: Manifest) -> list[str]:
    """What keeps a job from going on with what another began: all that would change bytes."""
    found = [
        f"{name}: {manifest.settings.get(name)!r} there, {value!r} here"
        for name, value in other.settings.items()
        if manifest.settings.get(name) != value
    ]
    if manifest.files != other.files:
        there, here = ({name: rest for name, *rest in m.files} for m in (manifest, other))
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                found.append(
                    f"source file {name}: {_file(there, name)} there, {_file(here, name)} here"
                )
    changed = [
        (before, after)
        for before, after in zip(manifest.plan, plan, strict=False)
        if before != after
    ]
    for before, after in changed[:_SHOWN]:
        found.append(f"layer '{after['layer_name']}': {_asked(before)} there, {_asked(after)} here")
    if len(changed) > _SHOWN:
        found.append(f"{len(changed) - _SHOWN} more layers likewise")
    if len(manifest.plan) != len(plan):
        found.append(f"layers: {len(manifest.plan)} there, {len(plan)} here")
    return found


def _file(files: dict[str, list[int | None]], name: str) -> str:
    size, modified = files.get(name, [None, None])
    return "missing" if size is None else f"{size:,} bytes of time {modified}"


def _asked(row: dict[str, Any]) -> str:
    if row["scheme"] == "none":
        return "kept"
    kind = "symmetric" if row["is_symmetric"] else "asymmetric"
    return f"{row['scheme']} {kind}, group {row['group_size']}"
