"""What every scan can do."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._display import arrow_html
from arrowquant._errors import QuantizationWarning
from arrowquant._model import AxisRules, Meaning, StackAxes, Tensor

PART_BYTES = 256 << 20
"""A Parquet cell holds at most 2 GiB, and Spark fails from 0.6 GB on."""


@dataclass(frozen=True)
class Setup:
    """How files are read."""

    mmap: bool = True
    part_bytes: int = PART_BYTES
    variant: str | None = None
    """Which of several checkpoints in a directory."""
    stack_axis: int | None = None
    """The contracted axis of stacks of experts where nothing else tells it."""
    axis_rules: AxisRules = ()
    """The same of single stacks, as a plan says."""

    @property
    def axes(self) -> StackAxes:
        """All that the user says of stacks."""
        return StackAxes(self.stack_axis, self.axis_rules)

    def __post_init__(self) -> None:
        """Check what users gave."""
        if self.variant is not None and not isinstance(self.variant, str):
            raise TypeError(f"variant must be str or None, got {self.variant!r}.")
        if self.stack_axis not in {None, -1, -2} or isinstance(self.stack_axis, bool):
            raise ValueError(f"stack_axis must be -1, -2 or None, got {self.stack_axis!r}.")
        if not isinstance(self.mmap, bool):
            raise TypeError(f"mmap must be bool, got {self.mmap!r}.")
        if isinstance(self.part_bytes, bool) or not isinstance(self.part_bytes, int):
            raise TypeError(f"part_bytes must be int, got {self.part_bytes!r}.")
        if not 0 < self.part_bytes < 2**63:
            raise ValueError(f"part_bytes must be positive, got {self.part_bytes}.")


@dataclass(frozen=True)
class Piece:
    """A stretch of a scan that can be read on its own."""

    file: str
    """The key of the scan's file that it is in: its name, for one that is there."""
    position: int
    """Which row, row group or batch of it."""
    rows: int
    layers: int
    """How many layers begin in it."""
    bytes: int
    continues: bool
    """Its first row is a later part of the layer that the piece before ends with."""


Files = list[tuple[str, int | None, int | None]]
"""Name, size in bytes and modification time in nanoseconds; None for one that is not there."""


def missing_key(name: str) -> str:
    """The key of what a file should hold and does not."""
    return f"{name}#missing"


def identity(path: Path, name: str) -> tuple[str, int | None, int | None]:
    """What tells whether a file is still the same."""
    try:
        status = path.stat()
    except OSError:
        return name, None, None
    return name, status.st_size, status.st_mtime_ns


class Scan(ABC):
    """A checkpoint on disk as a weights relation. Nothing is read before a batch is asked for."""

    data_bytes: int | None = None
    """Bytes of all weights, where that is known without reading them."""

    def __init__(self, path: Path, setup: Setup, given: pa.Buffer | None = None) -> None:
        self.path = path
        self.setup = setup
        self.given = given
        """The file's bytes, where it was handed over open."""

    @property
    def layers(self) -> int | None:
        """How many layers there are, where that is known without reading them."""
        return None

    @property
    def row_count(self) -> int | None:
        """How many rows the relation has, likewise; a layer in parts has several."""
        return None

    @property
    def metadata(self) -> dict[str, Any]:
        """What the source says beside its tensors, by key."""
        return {}

    def tensor_elements(self) -> dict[str, int] | None:
        """How many elements each tensor has by the files' own headers; None where there are none.

        What several files call by one name is added up.
        """
        return None

    def made_of(self) -> dict[str, Collection[str]]:
        """The tensors of each layer, or stack, that is made of codes and what belongs to them."""
        return {}

    def tensors(self) -> list[Tensor]:
        """What the source's tensors are called, and their types and shapes: what meaning needs."""
        return []

    def assign(self, meanings: Sequence[Meaning], *, any_stacks: bool) -> None:
        """Take the meaning of each of `tensors`; and whether any file has stacks."""
        del meanings, any_stacks  # A relation may say itself what its rows mean.

    def with_axes(self, rules: AxisRules) -> Scan:
        """The same source where a plan says how stacks of experts lie; itself if it does not."""
        if not rules:
            return self
        other = copy.copy(self)
        other.setup = replace(self.setup, axis_rules=(*rules, *self.setup.axis_rules))
        other._forget_meaning()
        return other

    def in_order(self, place: Mapping[str, int], fixed: Collection[str] = ()) -> Scan:
        """The same source with its layers in the order of their places, where it can be read so.

        A file of tensors can; a table stays as it is, and so do the files called `fixed`.
        """
        del place, fixed
        return self

    def _forget_meaning(self) -> None:
        """Forget what tensors mean, so that it is found out anew."""
        return  # A dataset says itself what its rows mean.

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The relation's schema."""

    @abstractmethod
    def reader(self) -> pa.RecordBatchReader:
        """Open the source anew and return its batches."""

    @abstractmethod
    def without_data(self) -> Any:
        """Return the relation without `data` where the other columns suffice for a plan."""

    @abstractmethod
    def pieces(self) -> list[Piece]:
        """The stretches that can be read on their own, in order."""

    @abstractmethod
    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        """Read `count` pieces of one file from `position` on.

        Raises:
            OSError: The file can't be read, or there is none of that key.
        """

    def outline(self) -> pa.Table:
        """All rows without their data, with the dtype and shape of each."""
        reader = self.without_data()
        if "data" not in reader.schema.names:
            return pa.Table.from_batches(list(reader), reader.schema)
        # Its other columns don't say all, so that data were read after all.
        schema = pa.schema(_core.outline_schema(reader.schema))
        batches = [pa.record_batch(_core.outline(batch)) for batch in reader]
        return pa.Table.from_batches(batches, schema)

    @property
    def key(self) -> str:
        """What its one file is called in pieces."""
        return self.path.name

    @property
    def first_key(self) -> str:
        """What its first file is called."""
        return self.key

    def files(self) -> Files:
        """Every file that the scan reads, as it is now."""
        if self.given is not None:
            return [(self.path.name, self.given.size, None)]
        return [identity(self.path, self.path.name)]

    def __arrow_c_schema__(self) -> object:
        """Return a PyCapsule of the relation's Arrow C schema."""
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a PyCapsule of an Arrow C stream, a new one each time."""
        return self.reader().__arrow_c_stream__(requested_schema)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self.reader())

    @property
    def layer_names(self) -> list[str]:
        """The layers' names, each once, in the scan's order."""
        from arrowquant._scan.layers import layer_names

        return layer_names(self)

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """Return a layer's weights; those of a quantized one are decoded.

        Raises:
            KeyError: There is no layer of that name.
            ValueError: The layer has no data, or NumPy has no type for it.
        """
        from arrowquant._scan.layers import read_layer

        return read_layer(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self.layer_names

    def _ipython_key_completions_(self) -> list[str]:
        return self.layer_names

    def __dir__(self) -> list[str]:
        """What people use: the rest is how a job reads it."""
        return [*_PUBLIC, *(name for name in super().__dir__() if name.startswith("__"))]

    def __repr__(self) -> str:
        known = ""
        if self.layers is not None and self.data_bytes is not None:
            known = f": {self.layers} tensors, {self.data_bytes:,} bytes of weights"
        return f"aq.scan({str(self.path)!r}){known}"

    def _repr_html_(self) -> str:
        reader = self.without_data()
        table = pa.Table.from_batches(list(reader), reader.schema)
        shown = ("layer_name", "dtype", "shape", "role", "scheme", "bits_per_weight", "snr_db")
        return arrow_html(repr(self), table, (*shown, "source_file"))


_PUBLIC: tuple[str, ...] = ("data_bytes", "layer_names", "layers", "metadata", "path", "reader")
_PUBLIC += ("row_count", "schema")


def warn_not_mapped(path: Path, why: str) -> None:
    """Say that a file is read although it was to be mapped."""
    message = (
        f"{path}: can't be mapped ({why}), so it is read, batch by batch. mmap=False (--no-mmap) "
        "does that without this warning."
    )
    warnings.warn(QuantizationWarning(message), stacklevel=3)
