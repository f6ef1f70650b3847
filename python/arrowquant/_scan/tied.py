"""Plans of models whose head is tied to the table of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa

from arrowquant._model import read_config
from arrowquant._model.ties import head_and_table
from arrowquant._options import SETTINGS
from arrowquant._scan.base import Scan
from arrowquant._scan.layers import layer_contents

_FOLLOWED = ("scheme", *SETTINGS.values(), "predicted_bytes", "reason", "note")


def follow_table(plan: pa.Table, source: Any, named: Sequence[str]) -> pa.Table:
    """The plan in which a tied head is treated as the embeddings, whose bytes it has.

    Args:
        plan: Of the source's layers.
        source: Where it is a scan, its files tell whether the head is tied, and to what.
        named: What the user has named layers by: a head that is named is treated as it says.
    """
    if "role" not in plan.schema.names:
        return plan
    rows = plan.to_pylist()
    found = _said_tied(rows, source)
    if found is None:
        return plan
    head, table = found
    if all(head[name] == table[name] for name in _FOLLOWED) or _is_named(head, named):
        return plan
    if not _are_same(source, head, table):
        return plan
    head |= {name: table[name] for name in _FOLLOWED}
    return pa.Table.from_pylist(rows, plan.schema)


def tied_head(rows: Sequence[dict[str, Any]], source: Any) -> str | None:
    """The head of a plan's rows that has the bytes of the table to which it is tied."""
    found = _said_tied(rows, source)
    if found is None or not _are_same(source, *found):
        return None
    name: str = found[0]["layer_name"]
    return name


def _said_tied(
    rows: Sequence[dict[str, Any]], source: Any
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The head and the table of a model that ties them, where both are there and fit."""
    if not isinstance(source, Scan) or source.given is not None:
        return None
    folder = source.path if source.path.is_dir() else source.path.parent
    if not read_config(folder).is_tied:
        return None
    found = head_and_table(rows, lambda row: row["layer_name"] or "", lambda row: row["role"])
    if found is None or any(found[0][name] != found[1][name] for name in ("shape", "dtype")):
        return None
    return found


def _are_same(source: Scan, head: dict[str, Any], table: dict[str, Any]) -> bool:
    """Whether both have the same bytes."""
    hashes = [layer_contents(source, row["layer_name"]) for row in (head, table)]
    return hashes[0] == hashes[1]


def _is_named(row: dict[str, Any], named: Sequence[str]) -> bool:
    name = row["layer_name"]
    return any(
        pattern in {name, f"role:{row['role']}"} or (pattern != "*" and fnmatchcase(name, pattern))
        for pattern in named
    )
