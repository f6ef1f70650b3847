"""ONNX, from an ONNX source: the same graph with operators that take quantized weights.

Sources: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md and
https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from arrowquant import _core
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._export import shards
from arrowquant._export.formats.base import Format, How, Model
from arrowquant._export.layers import Layer
from arrowquant._export.onnx_graph import SUFFIXES, Quantized, Written, rewrite
from arrowquant._export.places import Target
from arrowquant._export.planning import Plan, batches
from arrowquant._files import exists_error, replacing, scratch
from arrowquant._model import Tensor
from arrowquant._model.onnx import Graph
from arrowquant._progress import counted
from arrowquant._scan.base import Setup, identity
from arrowquant._scan.onnx import OnnxScan

_SUFFIX = ".onnx"
_INLINE_BYTES = 256 << 20
"""Up to which the numbers of a model that is one file stay in it."""
_BLOCKS = (16, 32, 64, 128, 256)
"""Sizes of groups in which rows are looked up."""
_TURNED = -2
_FP8_OPSET = 19
_BLOCKS_OPSET = 21


_SESSION = (
    'python -c "import sys, onnxruntime; s = onnxruntime.InferenceSession(sys.argv[1]); '
    'print([x.name for x in s.get_inputs()])" {path}'
)
"""What has ONNX Runtime load a model and tell what goes in."""
_GENERATE = (
    'python -c "import sys, onnxruntime_genai as g; m = g.Model(sys.argv[1]); t = g.Tokenizer(m); '
    "s = t.create_stream(); p = g.GeneratorParams(m); p.set_search_options(max_length=24); "
    "x = g.Generator(m, p); x.append_tokens(t.encode('The capital of France is')); "
    "[(x.generate_next_token(), print(s.decode(x.get_next_tokens()[0]), end='')) for _ in "
    'range(16)]" {path}'
)
"""What has onnxruntime-genai go on with some words."""


class Onnx(Format):
    """`MatMulNBits` and `MatMulBnb4`, which are ONNX Runtime's; FP8 by `DequantizeLinear`."""

    name = "onnx"
    layout = "onnx"
    suffix = _SUFFIX
    may_be_directory = True
    load = _SESSION
    takes_embeddings = True
    is_qdq = False

    def load_command(self, written: Path) -> str | None:
        """Of a directory that onnxruntime-genai knows, words; else what goes in."""
        if not written.is_dir():
            return super().load_command(written)
        if (written / "genai_config.json").exists():
            return _GENERATE.format(path=shlex.quote(str(written)))
        return super().load_command(next(written.glob(f"*{_SUFFIX}"), written))

    def check_kind(self, origin: Path | None) -> None:
        """Only ONNX will do; see `prepare`."""

    def prepare(self, model: Model) -> None:
        """Refuse a source that is no ONNX model: graphs are copied, not made.

        Raises:
            ValueError: It is none, or the package onnx is not installed.
        """
        if model.origin is None or not is_onnx(model.origin):
            where = "" if model.origin is None else f" {model.origin} is none."
            raise ValueError(
                f"ONNX is written from ONNX sources only.{where} Export the model first, such as "
                "with optimum-cli export onnx --model MODEL DIR, and quantize that. Where the "
                "source has moved, name its file: source='MODEL.onnx' (--source MODEL.onnx)."
            )
        if find_spec("onnx") is None:
            raise ValueError(
                "ONNX graphs are written by the package onnx, which is not installed: pip install "
                "'arrowquantize[onnx]'."
            )
        _check_same(model, model.origin)

    def check_beside(self, destination: Path, origin: Path | None, *, overwrite: bool) -> None:
        """Refuse a place where the numbers would go that has some, or the source's own.

        Raises:
            FileExistsError: There is such a file, and it must not be replaced.
            ValueError: The source's numbers are there.
        """
        beside = data_file(destination)
        if not beside.exists():
            return
        if origin is not None and is_onnx(origin) and origin.exists():
            files = {origin.parent / file for file in numbers_of(origin)}
            if any(file.exists() and file.samefile(beside) for file in files):
                raise ValueError(f"{beside}: holds numbers of {origin}. Name another file.")
        if not overwrite:
            raise exists_error(beside)

    def refuse(self, model: Model, layer: Layer) -> str | None:
        """A tensor that other operators use, or a graph whose operators are too old."""
        assert model.origin is not None
        graph = _graph(model.origin, model.origin.stat().st_mtime_ns)
        uses = graph.uses(layer.name)
        shape = layer.shape if layer.stack is None else list(layer.stack.shape)
        axis = graph.axis(Tensor(layer.name, layer.dtype, shape))
        if not uses:
            users = sorted({node.operator for node, _ in graph.users.get(layer.name, [])})
            used = f"it is used by {', '.join(users)}" if users else "no operator uses it"
            return (
                f"{used}, and only what MatMul, Gemm and Gather of rows use, and no graph in the "
                "graph names anew, is written quantized. Keep it"
            )
        if axis is None or (axis == _TURNED) != (layer.stack is not None):
            return "operators use it in two ways, and it can't lie in both. Keep it"
        if any(use.is_lookup for use in uses) and (why := self._no_table(layer)) is not None:
            return f"it is a table of embeddings, {why}"
        taken = {f"{layer.name}{suffix}" for suffix in SUFFIXES} & graph.values
        if taken:
            return (
                f"another value is called '{min(taken)}', as one of its tensors would be. Keep it"
            )
        needed = self._opset(layer)
        opset = graph.opsets.get("", graph.opsets.get("ai.onnx", 0))
        if opset < needed:
            path = model.origin
            return (
                f"DequantizeLinear takes it from opset {needed} on, and the model has {opset}. "
                f'Convert it: python -c "import onnx; onnx.save(onnx.version_converter.'
                f"convert_version(onnx.load('{path}'), {needed}), '{path.stem}-{needed}.onnx')\""
            )
        return super().refuse(model, layer)

    def _no_table(self, layer: Layer) -> str | None:
        """Why `GatherBlockQuantized` can't look up a layer's rows; None where it can."""
        if self.is_qdq or layer.scheme not in {"int8", "int4"}:
            return "which ONNX Runtime takes as int8 or int4 in the format onnx only"
        size = layer.group_size or 0
        if size not in _BLOCKS or layer.shape[-1] % size:
            sizes = ", ".join(map(str, _BLOCKS))
            return f"whose groups must be one of {sizes} and divide rows of {layer.shape[-1]}"
        return None

    def _opset(self, layer: Layer) -> int:
        if layer.scheme == "fp8_e4m3":
            is_blocked = layer.group_size not in {-1, layer.shape[-1]}
            return _BLOCKS_OPSET if is_blocked else _FP8_OPSET
        return _BLOCKS_OPSET if self.is_qdq else 0

    def needs_parameters(self, model: Model) -> bool:
        """Scales must be of the type that the weights have."""
        del model
        return True

    def targets(self, model: Model, layer: Layer) -> Sequence[Target] | str | None:
        """Layers keep their names."""
        del model
        return None if layer.decoded else [Target(layer.name, layer.shape[0])]

    def configure(self, model: Model, folder: Path) -> None:
        """Nothing stands beside the file but what is copied."""

    def write(self, model: Model, found: Plan, destination: Path, how: How) -> None:
        """Write the model, and beside it the file of its numbers, `.data`.

        A model that was one file of less than 256 MiB stays one.
        """
        assert model.origin is not None
        source, tensors = model.origin, [tensor for group in found.groups for tensor in group]
        is_one_file = not numbers_of(source) and sum(map(shards.size_of, tensors)) <= _INLINE_BYTES
        self.check_beside(destination, source, overwrite=how.overwrite)
        graph = _graph(source, source.stat().st_mtime_ns)
        quantized = [
            Quantized(
                layer.name,
                layer.scheme,
                (layer.shape[0], layer.shape[1]),
                layer.group_size or 0,
                layer.is_symmetric,
                is_qdq=self.is_qdq or layer.scheme == "fp8_e4m3",
                aliases=graph.aliases(layer.name),
            )
            for layer in model.quantized
        ]
        beside = data_file(destination)
        numbers = scratch(beside) if is_one_file else replacing(beside)
        # The inner one takes its place first: a model must not be there before its numbers.
        with replacing(destination) as new, numbers as temporary:
            writer, places = _core.TensorWriter.data(temporary, tensors, True)
            try:
                with counted(how.progress, len(model.layers.layers)) as count:
                    relation = count(shards.ahead(model.batches()))
                    for batch in shards.ahead(batches(found, model, relation, how.threads)):
                        writer.write(batch)
                writer.finish()
            finally:
                writer.abort()
            written = Written(
                temporary,
                beside.name,
                {name: (start, end) for name, start, end in places},
                is_inline=is_one_file,
            )
            specs = [Tensor(name, dtype, shape) for name, dtype, shape in tensors]
            new.write_bytes(rewrite(source, specs, written, quantized))
            # A model must not be there with the numbers of another, nor these without it.
            if how.overwrite and destination.exists():
                if is_one_file and beside.name in numbers_of(destination):
                    beside.unlink(missing_ok=True)
                destination.unlink()


class OnnxQdq(Onnx):
    """`DequantizeLinear` for all, which is ONNX's own and runs anywhere."""

    name = "onnx-qdq"
    layout = "onnx-qdq"
    is_qdq = True


def is_onnx(path: Path) -> bool:
    """Whether a model is a file of ONNX."""
    return path.suffix.lower() == _SUFFIX


def data_file(model: Path) -> Path:
    """Where the numbers of a model are that are not in it."""
    return model.with_name(f"{model.name}.data")


def numbers_of(model: Path) -> set[str]:
    """The files that hold numbers of a model, beside it."""
    return {file for file, *_ in _core.OnnxGraph(model, True, None).external()}


def _check_same(model: Model, origin: Path) -> None:
    """Refuse a model that is not the one that was quantized.

    Raises:
        ValueError: It changed since, or has other tensors.
    """
    relation = model.relation
    if not isinstance(relation, Dataset):
        return
    if relation.source == origin:
        for name, *was in relation.manifest.files:
            if list(identity(origin.parent / name, name)[1:]) != was:
                raise ValueError(
                    f"{origin.parent / name}: changed since the model was quantized. Quantize it "
                    "again (--overwrite); or name it with source=... (--source) if it is the same."
                )
    own = {x.name: (x.dtype, x.shape) for x in OnnxScan(origin, Setup()).tensors()}
    for layer in model.layers.layers:
        name, dtype, shape = layer.tensor if layer.decoded else (layer.name, layer.dtype, None)
        known = own.get(name)
        if known is None or known[0] != dtype or (shape is not None and known[1] != shape):
            raise ValueError(f"{origin}: has no tensor '{name}' as it was quantized.")


@lru_cache(maxsize=1)
def _graph(path: Path, changed: int) -> Graph:
    """A model's graph; read anew once the file has changed."""
    del changed
    return Graph(_core.OnnxGraph(path, True, None))
