"""Files of named tensors, safetensors and GGUF, read by the core: their bytes are the column."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._model import Codes, Config, Meaning, Tensor, read_config, resolve
from arrowquant._scan.base import Piece, Scan, Setup, warn_not_mapped

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def with_scales(
    meanings: Sequence[Meaning], numbers: Callable[[str], list[float] | None]
) -> list[Meaning]:
    """The meanings with the scales of codes, which are read: they may be in another file."""

    def read(codes: Codes) -> Codes:
        scales = [value for name in codes.companions for value in numbers(name) or ()]
        return replace(codes, scales=scales)

    return [
        meaning if meaning.packed is None else replace(meaning, packed=read(meaning.packed))
        for meaning in meanings
    ]


class TensorScan(Scan):
    """One file."""

    def __init__(self, path: Path, setup: Setup, given: pa.Buffer | None = None) -> None:
        super().__init__(path, setup, given)
        self._opened: _core.TensorFile | None = self._open()  # A broken header raises here.
        self._entries = self._opened.entries()
        self._said: list[Any] | None = None
        self._order: list[int] | None = None
        """Of the tensors, where it is not that of their bytes."""
        self.data_bytes = sum(size for *_, size in self._entries)
        if self._opened.not_mapped is not None:
            warn_not_mapped(path, self._opened.not_mapped)

    def _open(self) -> _core.TensorFile:
        if self.given is not None:
            return _core.TensorFile.given(self.path, np.frombuffer(self.given, np.uint8))
        return _core.TensorFile(self.path, self.setup.mmap)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it opens the file itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_rows"} | {
            "_opened": None
        }

    @property
    def _file(self) -> _core.TensorFile:
        """The file with its header checked, which is parsed once."""
        if self._opened is None:
            opened = self._open()
            if opened.entries() != self._entries:
                raise OSError(f"{self.path}: changed since it was scanned. Scan it again.")
            self._opened = opened
        return self._opened

    def tensors(self) -> list[Tensor]:
        return [Tensor(name, dtype, shape) for name, dtype, shape, _ in self._entries]

    def tensor_elements(self) -> dict[str, int] | None:
        return {tensor.name: math.prod(tensor.shape) for tensor in self.tensors()}

    def assign(self, meanings: Sequence[Meaning], *, any_stacks: bool) -> None:
        del any_stacks  # The columns are the same.
        self._said = list(meanings)
        self.__dict__.pop("_rows", None)

    def in_order(self, place: Mapping[str, int], fixed: Collection[str] = ()) -> Scan:
        if self.path.name in fixed:
            return self

        def at(entry: int) -> int:
            name = self._entries[entry][0]
            return min(place.get(name, len(place)), place.get(f"{name}[0]", len(place)))

        order = sorted(range(len(self._entries)), key=at)
        if order == (self._order or list(range(len(order)))):
            return self
        other = copy.copy(self)
        other._order = order
        other.__dict__.pop("_rows", None)
        return other

    def _forget_meaning(self) -> None:
        self._said = None
        self.__dict__.pop("_rows", None)

    @cached_property
    def _rows(self) -> _core.TensorRows:
        if self._said is None:
            config = Config() if self.given is not None else read_config(self.path.parent)
            meanings = resolve(self.tensors(), config, self.setup.axes)
            meanings = with_scales(meanings, self.numbers)
            self.assign(meanings, any_stacks=False)
        assert self._said is not None
        return self._file.rows(self._said, self.setup.part_bytes, self._order)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {entry[0]: at for at, entry in enumerate(self._entries)}

    @cached_property
    def _plain_rows(self) -> _core.TensorRows:
        """Each tensor as one row, whatever it means."""
        return self._file.rows([Meaning("other")] * len(self._entries), 2**62, None)

    def numbers(self, name: str) -> list[float] | None:
        """A tensor of floats; None where there is none of that name."""
        at = self._places.get(name)
        if at is None:
            return None
        table = pa.RecordBatchReader.from_stream(self._plain_rows.reader(True, at, 1)).read_all()
        found = np.frombuffer(table["data"][0].as_buffer(), _NUMPY[self._entries[at][1]])
        if self._entries[at][1] == "BF16":
            found = (found.astype(np.uint32) << 16).view(np.float32)
        values: list[float] = found.astype(np.float32).tolist()
        return values

    @property
    def layers(self) -> int | None:
        return self._rows.layers

    @property
    def row_count(self) -> int | None:
        return len(self._rows)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says beside its tensors: `__metadata__`, or GGUF's keys."""
        return self._file.metadata()

    @property
    def schema(self) -> pa.Schema:
        return self._read(0, 0).schema

    def reader(self) -> pa.RecordBatchReader:
        return self._read(0, len(self._rows))

    def without_data(self) -> pa.RecordBatchReader:
        return self._read(0, len(self._rows), with_data=False)

    def pieces(self) -> list[Piece]:
        return [
            Piece(self.key, position, 1, int(part == 0), size, continues=part > 0)
            for position, (part, size) in enumerate(self._rows.pieces())
        ]

    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        del file  # There is one.
        return self._read(position, count)

    def _read(self, position: int, count: int, *, with_data: bool = True) -> pa.RecordBatchReader:
        reader = self._rows.reader(with_data, position, count)
        return pa.RecordBatchReader.from_stream(reader)
