"""How much the columns of layers matter: tables `layer_name, importance, tokens, source`."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant import _core
from arrowquant._errors import QuantizationWarning
from arrowquant._files import replacing, user_path
from arrowquant._importance import imatrix

if TYPE_CHECKING:
    from arrowquant._scan import Scan

SCHEMA = pa.schema(
    {
        "layer_name": pa.string(),
        "importance": pa.list_(pa.float32()),
        "tokens": pa.int64(),
        "source": pa.string(),
    }
)
AUTO = "auto"
"""What asks for a table that is made first."""
_SHOWN = 3


@dataclass(frozen=True)
class Importance:
    """A table, read once for all layers."""

    table: pa.Table
    """Columns `layer_name` and `importance`, sorted by name; no list is null."""
    path: Path | None = field(default=None, compare=False)
    """The file that it was in."""

    @staticmethod
    def read(given: Any) -> Importance | None:
        """Read a table in a file or in anything that speaks Arrow; imatrix files, too.

        Raises:
            OSError, TypeError, ValueError: It can't be read, or lacks a column.
        """
        if given is None or isinstance(given, Importance):
            return given
        path, table = _table(given)
        missing = {"layer_name", "importance"} - set(table.schema.names)
        if missing:
            what = path or "importance"
            raise ValueError(
                f"{what}: has no column {' and no column '.join(sorted(missing))}. A table of "
                "importance has a list of floats for each layer_name."
            )
        table = table.select(["layer_name", "importance"])
        try:
            _core.Importance(table)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}" if path else str(error)) from error
        kind = pa.schema([SCHEMA.field("layer_name"), SCHEMA.field("importance")])
        table = table.cast(kind)
        table = table.filter(pc.is_valid(table["importance"]))
        return Importance(table.sort_by("layer_name").combine_chunks(), path)

    @cached_property
    def core(self) -> _core.Importance:
        """The same as the core reads it."""
        return _core.Importance(self.table)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names and numbers."""
        found = hashlib.sha256()
        for name, row in zip(*self.table.columns, strict=True):
            numbers = row.values
            found.update(f"{name.as_py()}\0{len(numbers)}\0".encode())
            found.update(numbers.fill_null(float("nan")).to_numpy().astype("<f4").tobytes())
        return found.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it reads the table itself."""
        return {"table": self.table, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be what another process was."""
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def of_model(self, source: Scan) -> Importance:
        """The same for a model's layers, under its names of them.

        Names of Hugging Face and of llama.cpp are known to be of the same layers. What a table has
        of a whole stack is cut into what each of its matrices has.

        Raises:
            ImportError: Its names are others, and the package gguf, which knows them, is missing.
            ValueError: It has none of the model's layers.
        """
        layers = {row["layer_name"]: row for row in source.outline().to_pylist()}
        layers.pop(None, None)
        known = dict(
            zip(*(self.table[n].to_pylist() for n in self.table.column_names), strict=True)
        )
        found = _of_layers(known, layers, {})
        if not found and known and layers:
            found = _of_layers(known, layers, _other_names(source, list(known), layers))
        if known and layers and not found:
            here, there = (", ".join(map(repr, list(x)[:_SHOWN])) for x in (layers, known))
            raise ValueError(
                f"{self.path or 'importance'}: has none of the model's layers. It has {there}, and "
                f"the model {here}. Rename the table's layer_name, or give no importance."
            )
        columns = [
            pa.array(sorted(found), pa.string()),
            pa.array([found[name] for name in sorted(found)], self.table.schema.field(1).type),
        ]
        return Importance(pa.Table.from_arrays(columns, schema=self.table.schema), self.path)

    def say_missing(self, wanted: Sequence[str], stacklevel: int) -> None:
        """Warn of layers that are searched with weights and that the table does not have.

        Args:
            wanted: The layers that are searched so.
            stacklevel: How many calls up the line is that the warning names; 1: this one's caller.

        Warns:
            QuantizationWarning: There are some.
        """
        known = set(self.table["layer_name"].to_pylist())
        missing = [name for name in wanted if name not in known]
        if missing:
            shown = ", ".join(map(repr, missing[:_SHOWN]))
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            message = (
                f"{self.path or 'importance'}: lacks {len(missing)} of {len(wanted)} layers, whose "
                f"errors are weighed by what their own weights suggest: {shown}{more}."
            )
            warnings.warn(QuantizationWarning(message), stacklevel=stacklevel + 1)

    def save(self, path: Path) -> None:
        """Write the table beside what was done with it."""
        import pyarrow.parquet as pq

        with replacing(path) as temporary:
            pq.write_table(self.table, temporary, compression="zstd")


def _of_layers(
    known: dict[str, Any], layers: dict[str, Any], theirs: dict[str, str]
) -> dict[str, Any]:
    """What a table has of each layer; `theirs` are the table's names of some."""
    found = {}
    for name, row in layers.items():
        own = theirs.get(name, name)
        stem, index = imatrix.matrix(own)
        if own in known:
            found[name] = known[own]
        elif stem in known and row["shape"]:
            # Of a whole stack.
            values, width = known[stem], row["shape"][-1]
            if width and len(values) % width == 0 and (index + 1) * width <= len(values):
                found[name] = values[index * width : (index + 1) * width]
    return found


def _other_names(source: Scan, known: list[str], layers: dict[str, Any]) -> dict[str, str]:
    """The table's names of the model's layers, where one has llama.cpp's and the other has not."""
    from arrowquant._importance import names
    from arrowquant._model import read_config

    said = source.metadata.get("general.architecture")
    if names.are_of_gguf(list(layers)) and not names.are_of_gguf(known):
        there = names.to_gguf(known, [str(said)] if said else [])
        return {theirs: own for own, theirs in there.items()}
    if names.are_of_gguf(known) and not names.are_of_gguf(list(layers)):
        folder = source.path if source.path.is_dir() else source.path.parent
        return names.to_gguf(list(layers), read_config(folder).model_types)
    return {}


def says_something(numbers: Any) -> bool:
    """Whether numbers can be a layer's importance: they are finite, and not all zero."""
    import numpy as np

    return bool(np.isfinite(numbers).all() and np.any(numbers))


def weighed(plan: Sequence[Mapping[str, Any]]) -> list[str]:
    """The layers of a plan that are searched with weights."""
    searched = (row for row in plan if row["search"] == "weighted" and row["scheme"] != "none")
    return [row["layer_name"] for row in searched]


def told(table: pa.Table) -> str:
    """What a table that `aq.importance` has made is of."""
    # An expert has seen fewer tokens than other layers.
    rows = table.select(["tokens", "source"]).to_pylist()
    most = max(rows, key=lambda row: row["tokens"])
    source = most["source"].partition(",")[0]
    of = f"{most['tokens']} tokens of {source}" if most["tokens"] else f"the {source}"
    return f"{len(rows)} layers, of {of}"


def is_auto(given: Any) -> bool:
    """Whether a table is to be made first."""
    return isinstance(given, str) and given == AUTO


def searching(
    importance: Importance | str | None,
    scheme: str | None,
    settings: Mapping[str, Any],
    plan: Any,
    *,
    usual: str | None = None,
) -> Mapping[str, Any]:
    """The settings with the search that uses a table, where nothing is said of one.

    Args:
        importance: The table, if there is one.
        scheme: What layers become.
        settings: What is said.
        plan: Rules for single layers.
        usual: The search where neither these rules nor settings say one, if that is not the
            scheme's default.

    Raises:
        ValueError: Nothing would use it.
    """
    if importance is None:
        return settings
    search = settings.get("search")
    if search in {"none", "mse"}:
        raise ValueError(
            f"importance is for a weighted search, and search is '{search}'. Leave one of them out."
        )
    if plan is None:
        if scheme in _core.schemes() and "weighted" not in _core.searches(str(scheme)):
            raise ValueError(
                f"importance is for a weighted search, which '{scheme}' does not have. Leave "
                "importance (--importance) out."
            )
        return {**settings, "search": "weighted"}
    from arrowquant._plan import read_plan

    rules = read_plan(plan)
    is_used = usual == "weighted" or rules is None or _weighs(rules, scheme)
    if search is None and not is_used:
        raise ValueError(
            "importance is for a weighted search, and the plan names none. Say "
            "search='weighted' (--search weighted), or say it in the plan's column search."
        )
    return settings


def _weighs(rules: pa.Table, scheme: str | None) -> bool:
    """Whether a plan has weighted searches, by what it says or by its schemes' defaults."""
    nothing = pa.nulls(len(rules), pa.string())
    columns = (rules[n] if n in rules.schema.names else nothing for n in ("scheme", "search"))
    said = zip(*(column.to_pylist() for column in columns), strict=True)
    rows = [(named or scheme, search) for named, search in said]
    rows += [(scheme, None)] if scheme is not None else []
    return any((search or _core.default_search(named)) == "weighted" for named, search in rows)


def read_table(given: Any) -> pa.Table:
    """Return a table of importance with all its columns.

    Raises:
        OSError, TypeError, ValueError: It can't be read, or lacks a column.
    """
    _, table = _table(given)
    Importance.read(table)
    return table


def _table(given: Any) -> tuple[Path | None, pa.Table]:
    if not isinstance(given, (str, os.PathLike)):
        from arrowquant._inputs import as_table

        return None, as_table(given, "importance")
    path = user_path(given)
    if not path.is_file():
        raise FileNotFoundError(f"importance: {path}: no such file.")
    kind = path.suffix.lower()
    if kind in imatrix.SUFFIXES:
        return path, imatrix.read_imatrix(path)
    if kind != ".parquet":
        raise ValueError(
            f"{path}: tables of importance are .parquet, or llama.cpp's imatrix files, .gguf and "
            ".dat."
        )
    import pyarrow.parquet as pq

    try:
        return path, pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: {error}") from error
