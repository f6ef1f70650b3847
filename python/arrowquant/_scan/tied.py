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
    if not isinstance(source, Scan) or source.given is not None:
        return plan
    folder = source.path if source.path.is_dir() else source.path.parent
    if not read_config(folder).is_tied or "role" not in plan.schema.names:
        return plan
    rows = plan.to_pylist()
    found = head_and_table(rows, lambda row: row["layer_name"] or "", lambda row: row["role"])
    if found is None:
        return plan
    head, table = found
    same = all(head[name] == table[name] for name in ("shape", "dtype"))
    if not same or all(head[name] == table[name] for name in _FOLLOWED) or _is_named(head, named):
        return plan
    hashes = [layer_contents(source, row["layer_name"]) for row in (head, table)]
    if hashes[0] != hashes[1]:
        return plan
    head |= {name: table[name] for name in _FOLLOWED}
    return pa.Table.from_pylist(rows, plan.schema)


def _is_named(row: dict[str, Any], named: Sequence[str]) -> bool:
    name = row["layer_name"]
    return any(
        pattern in {name, f"role:{row['role']}"} or (pattern != "*" and fnmatchcase(name, pattern))
        for pattern in named
    )
