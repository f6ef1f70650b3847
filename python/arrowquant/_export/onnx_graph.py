"""ONNX graphs whose layers take quantized weights, through the package onnx.

Sources of the operators: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from arrowquant._model import Tensor
from arrowquant._scan.onnx import beside

_CONTRIB = "com.microsoft"
_INLINE_BYTES = 1024
"""Smaller tensors stay in the graph, as onnx.save has it."""
_BNB_BLOCK = 64
_BNB_TYPES = {"nf4": 1, "bnb_fp4": 0}
_NIBBLE = 4
_TYPES = {"U8": "UINT8", "F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16"}
SUFFIXES = (
    *(f"_Q{bits}{more}" for bits in (8, 4, 2) for more in ("", "_rows", "_rows_shape")),
    *("_scales", "_zero_points", "_Bnb4", "_absmax"),
    *("_quantized", "_scale", "_zero_point", "_dequantized"),
)
"""What is added to layers' names for what they become."""
_FIRST_IR = 4
"""From which on initializers need be no inputs."""
_NUMBERS = ("float_data", "double_data", "raw_data", "external_data", "data_location")


@dataclass(frozen=True)
class Quantized:
    """A layer as it is quantized."""

    name: str
    scheme: str
    shape: tuple[int, int]
    """Outputs and inputs."""
    group_size: int
    is_symmetric: bool
    is_qdq: bool
    """Whether `DequantizeLinear` makes numbers of it before it is multiplied by."""
    aliases: Sequence[str] = ()
    """The values of the graph that are it under another name, or turned around."""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return int(self.scheme.removeprefix("int")) if self.scheme.startswith("int") else 8

    @property
    def code_type(self) -> str:
        """ONNX's type of codes, for `DequantizeLinear`."""
        if not self.scheme.startswith("int"):
            return "FLOAT8E4M3FN"
        return f"INT{self.bits}" if self.is_symmetric else f"UINT{self.bits}"


@dataclass(frozen=True)
class Written:
    """The file that has the tensors' numbers."""

    path: Path
    """Where it is now."""
    name: str
    """Its name in the end."""
    places: Mapping[str, tuple[int, int]]
    """Where in it each tensor begins and ends."""
    is_inline: bool
    """Whether they all move into the graph."""


def rewrite(
    source: Path, tensors: Sequence[Tensor], written: Written, layers: Sequence[Quantized]
) -> bytes:
    """A model with these tensors in place of those that it had.

    Args:
        source: The model as it was.
        tensors: All that were written: those that are kept, and those that layers become.
        written: Where they are.
        layers: Those that are quantized.
    """
    import onnx

    model = onnx.load(source, load_external_data=False)
    with written.path.open("rb") as file:
        rewriter = _Rewriter(onnx, written, file, tensors, layers)
        rewriter.move_others(model, source.parent)
        rewriter.rewrite(model.graph)
    domains = {opset.domain for opset in model.opset_import}
    if _CONTRIB not in domains and any(not layer.is_qdq for layer in layers):
        model.opset_import.append(onnx.helper.make_opsetid(_CONTRIB, 1))
    model.ir_version = max(model.ir_version, _FIRST_IR)
    content: bytes = model.SerializeToString()
    return content


class _Rewriter:
    def __init__(
        self,
        onnx: Any,
        written: Written,
        file: BinaryIO,
        tensors: Sequence[Tensor],
        layers: Sequence[Quantized],
    ) -> None:
        self.onnx, self.written, self.file = onnx, written, file
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.layers = {layer.name: layer for layer in layers}
        self.aliases = {name: layer for layer in layers for name in layer.aliases}
        """Layers by their other names."""
        self.taken: set[str] = set()
        """Names of values."""
        self.before: dict[str, Any] = {}
        """Nodes that come before all others, by what they make."""
        self.shapes: dict[str, list[int]] = {}
        """Shapes that nodes take, by name."""

    def rewrite(self, graph: Any) -> None:
        """Do all of it."""
        self._fill_kept(graph)
        self.taken = {name for node in graph.node for name in (*node.input, *node.output)}
        nodes = list(self._replaced(graph.node))
        for layer in self.layers.values():
            for tensor, kind, dims in self._tensors(layer):
                proto = self.onnx.TensorProto(name=tensor.name, dims=dims)
                proto.data_type = getattr(self.onnx.TensorProto, kind)
                self._fill(proto, tensor.name, is_inline=False)
                graph.initializer.append(proto)
        for name, shape in self.shapes.items():
            array = self.onnx.helper.make_tensor(
                name, self.onnx.TensorProto.INT64, [len(shape)], shape
            )
            graph.initializer.append(array)
        _set(graph.node, [*self.before.values(), *nodes])
        gone = self.layers.keys() | self.aliases.keys()
        # Before version 4 of ONNX's representation, initializers were inputs, too.
        _set(graph.input, [value for value in graph.input if value.name not in gone])
        _set(graph.value_info, [value for value in graph.value_info if value.name not in gone])
        said = [x for x in graph.quantization_annotation if x.tensor_name not in gone]
        _set(graph.quantization_annotation, said)

    def _fill_kept(self, graph: Any) -> None:
        """Give the tensors that are kept their numbers, and drop those of layers."""
        _set(graph.initializer, [x for x in graph.initializer if x.name not in self.layers])
        _set(graph.node, [node for node in graph.node if _constant(node) not in self.layers])
        for tensor in graph.initializer:
            if tensor.name in self.tensors:
                self._fill(tensor, tensor.name, is_inline=False)
        for node in graph.node:
            if (name := _constant(node)) in self.tensors:
                (value,) = (x.t for x in node.attribute if x.name == "value")
                self._fill(value, name, is_inline=True)

    def _fill(self, tensor: Any, name: str, *, is_inline: bool) -> None:
        """Give a tensor its numbers: in itself, or where they are."""
        start, end = self.written.places[name]
        for field in _NUMBERS:
            tensor.ClearField(field)
        if self.written.is_inline or is_inline or end - start < _INLINE_BYTES:
            self.file.seek(start)
            tensor.raw_data = self.file.read(end - start)
        else:
            self._place(tensor, start, end)

    def _place(self, tensor: Any, start: int, end: int) -> None:
        """Say where in the file of numbers a tensor is."""
        tensor.data_location = self.onnx.TensorProto.EXTERNAL
        said = {"location": self.written.name, "offset": start, "length": end - start}
        for key, number in said.items():
            tensor.external_data.add(key=key, value=str(number))

    def move_others(self, model: Any, folder: Path) -> None:
        """Take in the numbers of tensors that are no rows, and lie in other files.

        Those of graphs in the graph are among them: ONNX Runtime does not look for these elsewhere.
        """
        for tensor in _all_tensors(model):
            is_elsewhere = tensor.data_location == self.onnx.TensorProto.EXTERNAL
            if not is_elsewhere or tensor.name in self.tensors or tensor.name in self.layers:
                continue
            said = {pair.key: pair.value for pair in tensor.external_data}
            path = folder / beside(folder / tensor.name, said.get("location", ""))
            first = int(said.get("offset", 0))
            length = int(said.get("length", path.stat().st_size - first))
            for field in ("external_data", "data_location"):
                tensor.ClearField(field)
            with path.open("rb") as source:
                source.seek(first)
                tensor.raw_data = source.read(length)

    def _tensors(self, layer: Quantized) -> Iterator[tuple[Tensor, str, list[int]]]:
        """The tensors that a layer becomes, with ONNX's types and shapes of them."""
        for name in self._names(layer):
            tensor = self.tensors[name]
            kind, dims = _TYPES[tensor.dtype], tensor.shape
            if layer.is_qdq and not name.endswith("_scale"):
                kind = layer.code_type
                if layer.bits == _NIBBLE:  # Two of them share a byte.
                    dims = [*dims[:-1], layer.shape[0]]
            yield tensor, kind, dims

    def _names(self, layer: Quantized) -> list[str]:
        """The names of the tensors that a layer becomes, as operators take them."""
        if layer.is_qdq:
            suffixes = ["_quantized", "_scale", "_zero_point"]
        elif layer.scheme in _BNB_TYPES:
            suffixes = ["_Bnb4", "_absmax"]
        else:
            suffixes = [f"_Q{layer.bits}", "_scales", "_zero_points"]
        names = [layer.name + suffix for suffix in suffixes]
        return [name for name in names if name in self.tensors]

    def _replaced(self, nodes: Iterable[Any]) -> Iterator[Any]:
        """The nodes, where those that multiply by layers take these quantized."""
        for node in nodes:
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    if inner.node:
                        _set(inner.node, list(self._replaced(inner.node)))
            if node.op_type in {"Transpose", "Identity"} and node.output[0] in self.aliases:
                continue
            is_layer = node.op_type in {"MatMul", "Gemm"} and len(node.input) > 1
            layer = self._layer(node.input[1]) if is_layer else None
            table = self._layer(node.input[0]) if node.op_type == "Gather" else None
            if table is not None:
                yield self._looking_up(node, table)
            elif layer is None:
                yield node
            elif layer.is_qdq:
                yield self._dequantizing(node, layer)
            else:
                yield from self._multiplying(node, layer)

    def _layer(self, value: str) -> Quantized | None:
        """The layer that a node takes under some name."""
        return self.layers.get(value) or self.aliases.get(value)

    def _dequantizing(self, node: Any, layer: Quantized) -> Any:
        """The same operator, of numbers that are made of codes."""
        numbers = f"{layer.name}_dequantized"
        scale = self.tensors[f"{layer.name}_scale"].shape
        how: dict[str, int] = {}
        if len(scale) == 1:
            how = {"axis": 1}
        elif scale:
            how = {"axis": 0, "block_size": layer.group_size}
        self.before[numbers] = self.onnx.helper.make_node(
            "DequantizeLinear", self._names(layer), [numbers], f"{layer.name}/Dequantize", **how
        )
        node.input[1] = numbers
        _set(node.attribute, [x for x in node.attribute if x.name != "transB"])
        return node

    def _free(self, name: str) -> str:
        """A name that no value has."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def _looking_up(self, node: Any, layer: Quantized) -> Any:
        """An operator that looks up rows of codes, which lie as those that are multiplied by."""
        codes, *others = self._names(layer)
        rows, blocks, bytes_of_block = self.tensors[codes].shape
        flat = f"{codes}_rows"
        self.shapes[f"{flat}_shape"] = [rows, blocks * bytes_of_block]
        self.before[flat] = self.onnx.helper.make_node(
            "Reshape", [codes, f"{flat}_shape"], [flat], f"{codes}/Reshape"
        )
        return self.onnx.helper.make_node(
            "GatherBlockQuantized",
            [flat, node.input[1], *others],
            list(node.output),
            node.name,
            domain=_CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=bytes_of_block * 8 // layer.bits,
            bits=layer.bits,
        )

    def _multiplying(self, node: Any, layer: Quantized) -> Iterator[Any]:
        """An operator that takes codes, and a sum where the node adds something, too."""
        outputs, inputs = layer.shape
        said = {"K": inputs, "N": outputs, "block_size": layer.group_size}
        if layer.scheme in _BNB_TYPES:
            operator = "MatMulBnb4"
            said |= {"block_size": _BNB_BLOCK, "quant_type": _BNB_TYPES[layer.scheme]}
        else:
            operator = "MatMulNBits"
            *_, bytes_of_block = self.tensors[f"{layer.name}_Q{layer.bits}"].shape
            said |= {"block_size": bytes_of_block * 8 // layer.bits, "bits": layer.bits}
        added = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004
        (result,) = node.output
        product = self._free(f"{result}_product") if added else result
        values = [node.input[0], *self._names(layer)]
        yield self.onnx.helper.make_node(
            operator, values, [product], node.name, domain=_CONTRIB, **said
        )
        if added:
            name = f"{node.name}_sum" if node.name else ""
            yield self.onnx.helper.make_node("Add", [product, added], [result], name)


def _all_tensors(model: Any) -> Iterator[Any]:
    """The tensors of a model, those of graphs in the graph and of functions among them."""
    graphs, nodes = [model.graph], [node for one in model.functions for node in one.node]
    while graphs or nodes:
        if not nodes:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes = list(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            graphs += [attribute.g] if attribute.HasField("g") else []
            graphs += attribute.graphs


def _constant(node: Any) -> str:
    """The name of the tensor that a node is; empty where it is none."""
    is_tensor = node.op_type == "Constant" and any(x.name == "value" for x in node.attribute)
    return str(node.output[0]) if is_tensor else ""


def _set(field: Any, values: Sequence[Any]) -> None:
    """Give a repeated field other values."""
    del field[:]
    field.extend(values)
