"""ONNX models: the initializers and constants of a graph, in its file or in others beside it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._errors import QuantizationWarning
from arrowquant._model import Config, Meaning, Tensor, read_config
from arrowquant._model.onnx import Graph, resolve_graph
from arrowquant._scan.base import Scan, Setup
from arrowquant._scan.members import member_of, some_of
from arrowquant._scan.shards import ManyScan
from arrowquant._scan.tensors import TensorScan

Told = tuple[str, str, list[int], int, int]
"""Name, dtype, shape, and where in its file a tensor begins and ends."""


class OnnxScan(ManyScan):
    """One model."""

    def __init__(self, path: Path, setup: Setup, given: pa.Buffer | None = None) -> None:
        data = None if given is None else np.frombuffer(given, np.uint8)
        read = _core.OnnxGraph(path, setup.mmap, data)
        self.graph = Graph(read)
        members: list[Scan] = [TensorScan(path, setup, given)]
        by_file: dict[str, list[Told]] = {}
        for file, *told in read.external():
            file = beside(path, file)  # noqa: PLW2901
            by_file.setdefault(file, []).append(tuple(told))  # type: ignore[arg-type]
        _check_names(path, list(by_file))
        if by_file and given is not None:
            raise ValueError(
                f"{path}: its tensors are in {some_of(list(by_file))}, beside it. Name the file by "
                "its path."
            )
        for file, tensors in by_file.items():
            place = path.parent / file
            names = [name for name, *_ in tensors]

            def member(place: Path, setup: Setup, told: list[Told] = tensors) -> TensorScan:
                return ToldScan(place, setup, told)

            members.append(member_of(place, member, setup, names))
        super().__init__(path, setup, members)
        self._warn_of_others()

    def _meanings(self, tensors: Sequence[Tensor], config: Config) -> list[Meaning]:
        return resolve_graph(tensors, self.graph, config)

    def _config(self) -> Config:
        return read_config(self.path.parent)

    def _warn_of_others(self) -> None:
        """Say which matrices are in the graph but no layers."""
        left = set(self.graph.others)
        wanted = {
            node.inputs[1]
            for node in self.graph.nodes
            if node.axis is not None and len(node.inputs) > 1 and node.inputs[1] in left
        }
        if wanted:
            warnings.warn(
                QuantizationWarning(
                    f"{self.path.name}: {some_of(sorted(wanted))} are of graphs in the graph, or "
                    "written number by number. They are no layers, and stay in the graph as they "
                    "are."
                ),
                stacklevel=6,
            )


class ToldScan(TensorScan):
    """A file of numbers, of which the model says what they are."""

    def __init__(self, path: Path, setup: Setup, told: list[Told]) -> None:
        self._told = told
        super().__init__(path, setup)

    def _open(self) -> _core.TensorFile:
        return _core.TensorFile.told(self.path, self.setup.mmap, self._told)


def _check_names(path: Path, files: list[str]) -> None:
    """Refuse files that can't be told apart by their names.

    Raises:
        ValueError: Two have the same, or one has the model's.
    """
    names = [path.name, *(PurePosixPath(file).name for file in files)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{path}: its numbers are in several files called {twice!r}, or in itself by name. Put "
            f'them in one: python -c "import onnx; onnx.save(onnx.load({str(path)!r}), '
            f"'one.onnx', save_as_external_data=True, location='one.onnx.data')\""
        )


def beside(path: Path, file: str) -> str:
    """The file that a model names, in one way of writing it.

    Raises:
        ValueError: It would lie outside the model's directory.
    """
    relative = PurePosixPath(file)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise ValueError(
            f"{path}: names the file {file!r}, which is not in the model's directory. Models may "
            "name files there only."
        )
    return relative.as_posix()
