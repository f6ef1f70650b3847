"""The layers of a quantized checkpoint, which must be whole to be exported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._export.places import SETTING_OF, Said
from arrowquant._model import Config, is_adapter
from arrowquant._options import SETTINGS
from arrowquant._parquet import failed_path
from arrowquant._scan import Scan
from arrowquant._tensors import STACK_COLUMNS, Stack

_SHOWN = 5
_SETTINGS = [column for column in SETTINGS.values() if column != "search"]
_CHOICES = next(words for name, _, _, words, *_ in _core.settings() if name == "scale_dtype")
_CACHE = re.compile(r"\.[kqv]_(scale|zero_point)$")


@dataclass(frozen=True)
class Layer:
    """A layer, as its rows say."""

    name: str
    dtype: str
    shape: list[int]
    scheme: str
    settings: dict[str, Any]
    """What its rows say of how it is quantized, by the columns that say it."""
    tensor_scale: float | None
    decoded: bool
    """Kept, or to be written decoded."""
    role: str | None = None
    keep_reason: str | None = None
    is_copied: bool = False
    """Its codes are those that another tool made."""
    stack: Stack | None = None

    @property
    def tensor(self) -> tuple[str, str, list[int]]:
        """What it is written as where it is decoded: itself, or the stack that it is of."""
        if self.stack is None:
            return self.name, self.dtype, self.shape
        return self.stack.name, self.dtype, list(self.stack.shape)

    @property
    def group_size(self) -> int | None:
        """Elements of a row that share a scale."""
        size: int | None = self.settings.get("group_size")
        return size

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is the middle code."""
        return bool(self.settings.get("is_symmetric"))

    @property
    def module(self) -> str:
        """The module whose parameter it is."""
        return self.name.removesuffix(".weight")

    @property
    def way(self) -> tuple[Any, ...]:
        """How it is quantized: what layers have in common that one description fits."""
        return (self.decoded, self.scheme, *self.settings.values())

    @property
    def said(self) -> Said:
        """What the core is told of it."""
        settings = {SETTING_OF[column]: value for column, value in self.settings.items()}
        if settings.get("scale_dtype") not in _CHOICES:
            settings.pop("scale_dtype", None)
        return Said(
            self.name,
            self.dtype,
            self.shape,
            None if self.decoded else self.scheme,
            {name: value for name, value in settings.items() if value is not None},
            self.tensor_scale,
        )

    @property
    def is_of_another_tool(self) -> bool:
        """Whether it is part of what another tool has quantized, and is kept as it was."""
        return self.decoded and (self.keep_reason or "").startswith("already_quantized")

    @property
    def is_of_cache(self) -> bool:
        """Whether it is a scale of the cache of keys and values, which no weight has."""
        return _CACHE.search(self.name) is not None


@dataclass(frozen=True)
class Layers:
    """All layers, each once."""

    layers: list[Layer]

    def decoded_tensors(self) -> list[tuple[str, str, list[int]]]:
        """The tensors of kept and decoded layers; a stack of matrices is one."""
        return list(
            {layer.tensor[0]: layer.tensor for layer in self.layers if layer.decoded}.values()
        )

    def is_adapter(self, config: Config) -> bool:
        """Whether they are an adapter's: by its configuration and names, or by names alone."""
        named = [is_adapter(layer.name) for layer in self.layers]
        return all(named) or (config.is_adapter and any(named))

    @staticmethod
    def of(relation: Scan, path: Path, decode: Sequence[str]) -> Layers:
        """The layers of a relation.

        Raises:
            ValueError: Units are not finished, layers failed, lack parts, or share a name; or a
                pattern of `decode` matches none.
        """
        if isinstance(decode, str):
            raise TypeError(f"decode must be a sequence of patterns, got the string {decode!r}.")
        _check_whole(relation, path)
        reader = relation.without_data()
        table = pa.Table.from_batches(list(reader), reader.schema)
        if "scheme" not in table.schema.names:
            raise ValueError(f"{path}: is no quantized checkpoint. Quantize it first.")
        parts: dict[str, int] = {}
        layers: dict[str, Layer] = {}
        counts: dict[str, int] = {}
        scales: dict[str, set[str | None]] = {}
        for row in table.to_pylist():
            name, count = row["layer_name"], row.get("part_count") or 1
            parts[name] = parts.get(name, 0) + 1
            scales.setdefault(name, set()).add(row["scale_dtype"])
            counts[name] = count
            layer = layers.setdefault(name, _layer(row, count, decode))
            if row.get("signed_scales"):  # Of any of its parts.
                layer.settings["signed_scales"] = True
        mixed = [name for name, dtypes in scales.items() if len(dtypes) > 1]
        if mixed:
            raise ValueError(
                f"{path}: the parts of {_named(mixed)} have scales of several types. Quantize "
                "again with this version, or with another scale_dtype."
            )
        wrong = [name for name, found in parts.items() if found != counts[name]]
        if wrong:
            raise ValueError(
                f"{path}: layers {_named(wrong)} come twice or lack a part, but names must be "
                "unique in an exported checkpoint."
            )
        _check_stacks(path, layers.values())
        unmatched = [p for p in decode if not any(_matches(name, p) for name in layers)]
        if unmatched:
            raise ValueError(f"decode matches no layer: {_named(unmatched)}.")
        return Layers(list(layers.values()))

    @staticmethod
    def planned(outline: pa.Table, plan: pa.Table) -> Layers:
        """The layers of a source as they would be, were they quantized as a plan says."""
        told = [name for name in ("layer_name", *STACK_COLUMNS) if name in outline.schema.names]
        stacks = {row["layer_name"]: row for row in outline.select(told).to_pylist()}
        layers = []
        for row in plan.to_pylist():
            name = row["layer_name"]
            if name is None or row["shape"] is None or row["dtype"] is None:
                continue  # It will fail.
            row |= {key: stacks[name].get(key) for key in STACK_COLUMNS}
            row["keep_reason"] = row["reason"]
            if (copied := _scheme_of(row["reason"])) is not None:
                # It stays as it is, and is written as what it is.
                row |= {"scheme": copied, "keep_reason": None, "search": "kept"}
            layers.append(_layer(row, 1, ()))
        return Layers(layers)


def _scheme_of(reason: str | None) -> str | None:
    """The scheme of a layer that a plan keeps as it was quantized."""
    match = re.fullmatch(r"already_quantized \((\w+)\)", reason or "")
    return match[1] if match and match[1] in _core.schemes() else None


def _layer(row: dict[str, Any], count: int, decode: Sequence[str]) -> Layer:
    name = row["layer_name"]
    settings = {column: row.get(column) for column in _SETTINGS}
    # Scales of which nobody says anything are as those that are said to be positive.
    settings["signed_scales"] = settings["signed_scales"] or None
    return Layer(
        name,
        row["dtype"],
        row["layer_shape"] if count > 1 else row["shape"],
        row["scheme"],
        settings,
        row.get("tensor_scale"),
        row["scheme"] == "none" or any(_matches(name, pattern) for pattern in decode),
        row.get("role"),
        row.get("keep_reason"),
        row.get("search") == "kept",
        Stack.of(row),
    )


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a layer; a matrix of a stack has brackets in its own name."""
    return name == pattern or fnmatchcase(name, pattern)


def _check_stacks(path: Path, layers: Iterable[Layer]) -> None:
    """Stacks are written whole, so all of their matrices must be there.

    Raises:
        ValueError: One is not.
    """
    members: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.stack is not None:
            members.setdefault(layer.stack.name, []).append(layer)
    for name, matrices in members.items():
        first = matrices[0]
        assert first.stack is not None
        count = first.stack.count(first.shape)
        if {m.stack.index for m in matrices if m.stack is not None} != set(range(count)):
            raise ValueError(f"{path}: stack '{name}' has {len(matrices)} of its {count} matrices.")


def _check_whole(relation: Scan, path: Path) -> None:
    """A runtime loads all of a checkpoint or nothing."""
    if isinstance(relation, Dataset):
        if relation.layers is None:
            raise ValueError(
                f"{path}: only {relation.finished_layers} of {relation.manifest.layers} layers are "
                "finished. Run the job again first."
            )
        failed = relation.failed["layer_name"].to_pylist()
    else:
        import pyarrow.parquet as pq

        beside = failed_path(path)
        failed = pq.read_table(beside)["layer_name"].to_pylist() if beside.exists() else []
    if failed:
        raise ValueError(
            f"{path}: layers failed, and would be missing: {_named(sorted(set(failed)))}. Do them "
            "again (--retry-failed), with another scheme, or keep them (--scheme none)."
        )


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
