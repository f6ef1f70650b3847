"""Files of named tensors, safetensors and GGUF, read by the core: their bytes are the column."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._model import Codes, Config, Meaning, Tensor, read_config, resolve
from arrowquant._scan.base import Piece, Scan, Setup, warn_not_mapped


@dataclass(frozen=True)
class _Located:
    """Codes with the files that their tensors are in, as the core takes them."""

    format: str
    layer: str
    dtype: str
    numbers: Mapping[str, int]
    sides: list[tuple[str, _core.TensorFile, str]]
    companions: list[str]


class TensorScan(Scan):
    """One file."""

    def __init__(self, path: Path, setup: Setup, given: pa.Buffer | None = None) -> None:
        super().__init__(path, setup, given)
        self._opened: _core.TensorFile | None = self._open()  # A broken header raises here.
        self._entries = self._opened.entries()
        self._said: list[Any] | None = None
        self.siblings: Mapping[Path, TensorScan] = {}
        """The other files of the checkpoint."""
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

    def made_of(self) -> dict[str, Collection[str]]:
        len(self._rows)  # They know what tensors mean.
        every = zip(self._entries, self._said or (), strict=True)
        return {
            meaning.packed.layer: {name, *meaning.packed.companions}
            for (name, *_), meaning in every
            if meaning.packed is not None
        }

    def assign(self, meanings: Sequence[Meaning], *, any_stacks: bool) -> None:
        del any_stacks  # The columns are the same.
        self._said = list(meanings)
        self.__dict__.pop("_rows", None)

    def in_order(self, place: Mapping[str, int], fixed: Collection[str] = ()) -> Scan:
        if self.path.name in fixed:
            return self

        said = self._said or []

        def at(entry: int) -> int:
            codes = said[entry].packed if said else None
            name = self._entries[entry][0] if codes is None else codes.layer
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
            consumed = {name for one in meanings if one.packed for name in one.packed.companions}
            meanings = self.checked(meanings, {}, consumed)
            self.assign(without_companions(self.tensors(), meanings, consumed), any_stacks=False)
        assert self._said is not None
        said = [
            one if one.packed is None else replace(one, packed=self._located(one.packed))
            for one in self._said
        ]
        return self._file.rows(said, self.setup.part_bytes, self._order)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {entry[0]: at for at, entry in enumerate(self._entries)}

    def _other(self, path: Path) -> _core.TensorFile:
        """Another file of the checkpoint, opened once."""
        member = self.siblings.get(path)
        return _core.TensorFile(path, self.setup.mmap) if member is None else member._file

    def _located(self, codes: Codes) -> _Located:
        """Codes with the files that their tensors are in."""
        sides = []
        for role, name in codes.tensors.items():
            path = codes.paths.get(name)
            file = self._file if path is None else self._other(path)
            sides.append((role, file, name))
        companions = list(codes.companions)
        return _Located(codes.format, codes.layer, codes.dtype, codes.numbers, sides, companions)

    def checked(
        self, meanings: Sequence[Meaning], owners: Mapping[str, Path], consumed: set[str]
    ) -> list[Meaning]:
        """The meanings with codes that can be read; others are kept, and why is said.

        Args:
            meanings: Of each of `tensors`.
            owners: The files that have tensors which this one lacks.
            consumed: The tensors that are read with codes; those of codes that can't be read are
                taken out.
        """
        found = []
        for (name, *_), meaning in zip(self._entries, meanings, strict=True):
            codes = meaning.packed
            if codes is None:
                found.append(meaning)
                continue
            names = [*codes.tensors.values()]
            paths = {one: owners[one] for one in names if one not in self._places and one in owners}
            codes = replace(codes, paths=paths)
            why = self._file.why_not(name, self._located(codes))
            if why is None:
                found.append(replace(meaning, packed=codes))
            else:
                consumed.difference_update({*codes.companions, name})
                found.append(replace(meaning, packed=None, keep_reason=_reason(meaning, why)))
        return found

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


def _reason(meaning: Meaning, why: str) -> str:
    """Why codes are kept that can't be read: what they are, and what is wrong."""
    reason = (meaning.keep_reason or "already_quantized (unknown format)").removesuffix(")")
    return f"{reason}: {why})"


def without_companions(
    tensors: Sequence[Tensor], meanings: Sequence[Meaning], consumed: Collection[str]
) -> list[Meaning]:
    """The meanings where tensors that are read with codes have no rows of their own."""
    names = set(consumed)
    return [
        replace(meaning, is_consumed=meaning.packed is None and tensor.name in names)
        for tensor, meaning in zip(tensors, meanings, strict=True)
    ]
