"""What the tensors of an ONNX model mean: the graph tells which of them are multiplied by.

Sources: https://onnx.ai/onnx/operators/ for `MatMul` and `Gemm`;
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md for what is quantized.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from arrowquant._model import experts
from arrowquant._model.config import Config
from arrowquant._model.meaning import Meaning, named_roles
from arrowquant._model.tensor import Tensor, is_float

_MATRIX = 2
_WEIGHT = 1
"""Which input of `MatMul` and `Gemm` is the weight."""
_TURNED = -2
_PASSED = {"Add", "Sub", "Mul", "Div", "Cast", "Identity", "Softmax", "LogSoftmax", "Sigmoid"}
"""What lies between a layer and what is made of its output."""
_RESHAPED = {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}
_CHOOSES_EXPERTS = {"TopK", "MoE", "QMoE"}
_MOST_EXPERTS = 512
_FAR = 8
"""Nodes that are followed at most."""
_QUANTIZED = re.compile(
    r"^(DequantizeLinear|MatMulNBits|MatMulBnb4|MatMulInteger\w*|DynamicQuantizeMatMul|QMoE"
    r"|QLinear\w+|ConvInteger|QAttention|QGemm|GatherBlockQuantized|DynamicQuantizeLSTM)$"
)
_UNNAMED = re.compile(
    r"^(onnx::|val_|_val|const|constant|transpose|initializer|p2o|linear_?\d|\d|/?[^.]*$)", re.I
)
"""Names that exporters make up, which tell nothing of the module."""
_OPERATOR = re.compile(r"[./](MatMul|Gemm)(_\d+)?(?=\.weight$|$)")


@dataclass(frozen=True)
class Node:
    """An operator of the graph, or of a graph in it."""

    name: str
    operator: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: Mapping[str, list[float]]

    def number(self, name: str, default: float) -> float:
        """An attribute that is a number."""
        return (self.attributes.get(name) or [default])[0]

    @property
    def turns(self) -> bool:
        """Whether it turns a matrix around."""
        is_own = self.operator == "Transpose" and self.domain == "" and len(self.outputs) == 1
        return is_own and self.attributes.get("perm", [1, 0]) == [1, 0]

    @property
    def renames(self) -> bool:
        """Whether what comes out is the same matrix, perhaps turned around."""
        is_same = self.operator == "Identity" and self.domain == "" and len(self.outputs) == 1
        return is_same or self.turns

    @property
    def axis(self) -> int | None:
        """The axis of its second input that is contracted with the first; None: it is no layer."""
        if self.domain != "":
            return None
        if self.operator == "MatMul":
            return _TURNED
        is_plain = not self.number("transA", 0) and self.number("alpha", 1) == 1
        if self.operator == "Gemm" and is_plain and self.number("beta", 1) == 1:
            return -1 if self.number("transB", 0) else _TURNED
        return None


@dataclass(frozen=True)
class Use:
    """A node that takes a matrix."""

    node: Node
    axis: int
    """The axis of the matrix that is contracted, or looked up as a whole."""
    is_lookup: bool
    """Whether its rows are looked up, as those of a table of embeddings are."""


def _use(node: Node, index: int, *, is_turned: bool) -> Use | None:
    """How a node uses a value; None where it is neither multiplied by nor looked up in."""
    is_lookup = node.operator == "Gather" and index == 0 and node.number("axis", 0) == 0
    axis = node.axis if index == _WEIGHT else -1 if is_lookup and node.domain == "" else None
    if axis is None:
        return None
    return Use(node, -3 - axis if is_turned else axis, is_lookup)


class Graph:
    """A model's nodes, and who uses which value."""

    def __init__(self, read: Any) -> None:
        self.nodes = [
            Node(name, operator, domain, inputs, outputs, dict(attributes))
            for name, operator, domain, inputs, outputs, attributes in read.nodes()
        ]
        own, outputs = read.nested
        self.nested: set[str] = set(own)
        """Values that graphs in the graph name themselves: the same name may be another value."""
        self.outputs: set[str] = {*read.outputs, *outputs}
        self.others: list[str] = list(read.others)
        self.opsets: dict[str, int] = dict(read.opsets)

    @cached_property
    def users(self) -> dict[str, list[tuple[Node, int]]]:
        """The nodes that use a value, and as which of their inputs."""
        found: dict[str, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for index, name in enumerate(node.inputs):
                if name:
                    found.setdefault(name, []).append((node, index))
        return found

    def uses(self, name: str) -> list[Use]:
        """How a matrix is used, where it is but multiplied by or looked up in; else nothing."""
        return self._uses(name, _FAR, is_turned=False) or []

    def _uses(self, name: str, depth: int, *, is_turned: bool) -> list[Use] | None:
        """The same of a value that is a matrix as it lies, or turned around."""
        if name in self.outputs or name in self.nested or depth == 0:
            return None
        found: list[Use] = []
        for node, index in self.users.get(name, []):
            if node.renames:
                is_other = is_turned != node.turns
                inner = self._uses(node.outputs[0], depth - 1, is_turned=is_other)
                if inner is None:
                    return None
                found += inner
                continue
            use = _use(node, index, is_turned=is_turned)
            if use is None:
                return None
            found.append(use)
        return found

    def aliases(self, name: str) -> list[str]:
        """The values that are a matrix with uses under other names, or turned around."""
        own = [node.outputs[0] for node, _ in self.users.get(name, []) if node.renames]
        return [alias for one in own for alias in (one, *self.aliases(one))]

    @cached_property
    def values(self) -> set[str]:
        """Names that are taken."""
        nodes = {name for node in self.nodes for name in (*node.inputs, *node.outputs)}
        return {*nodes, *self.outputs, *self.nested, *self.others}

    def layers(self, name: str) -> list[Node]:
        """The nodes that multiply by a matrix; empty where other operators use it, too."""
        return [use.node for use in self.uses(name) if not use.is_lookup]

    def axis(self, tensor: Tensor) -> int | None:
        """The axis of a matrix that is contracted; None where it is no layer's, or of two ways."""
        if len(tensor.shape) != _MATRIX or not all(tensor.shape) or not is_float(tensor.dtype):
            return None
        axes = {use.axis for use in self.uses(tensor.name)}
        return axes.pop() if len(axes) == 1 else None

    def chooses_experts(self, node: Node) -> bool:
        """Whether a layer's output says which experts are asked."""
        through = _PASSED | _RESHAPED
        return any(user.operator in _CHOOSES_EXPERTS for user in self._after(node, through))

    def is_head(self, node: Node) -> bool:
        """Whether a layer's output is the model's."""
        found = [node, *(x for x in self._after(node, _PASSED) if x.operator in _PASSED)]
        return any(name in self.outputs for one in found for name in one.outputs)

    def _after(self, node: Node, through: set[str]) -> Iterator[Node]:
        """The nodes that use a node's output, or what such operators make of it."""
        values, seen = list(node.outputs), set[str]()
        for _ in range(_FAR):
            users = [user for value in values for user, _ in self.users.get(value, [])]
            seen.update(values)
            yield from users
            values = [
                output
                for user in users
                if user.operator in through
                for output in user.outputs
                if output not in seen
            ]


def resolve_graph(tensors: Sequence[Tensor], graph: Graph, config: Config) -> list[Meaning]:
    """The meaning of each of an ONNX model's tensors.

    Only matrices that nothing but `MatMul` and `Gemm` use are layers. Where such a matrix is
    `[in, out]`, it is read turned around. A head may be the table of embeddings, too.
    """
    axes = {tensor.name: graph.axis(tensor) for tensor in tensors}
    called = [_called(tensor, graph, axes[tensor.name]) for tensor in tensors]
    named = {tensor.name: tensor for tensor in called}
    roles = named_roles(called, experts.count_of(named, config))
    meanings = []
    for tensor, role in zip(tensors, roles, strict=True):
        axis = axes[tensor.name]
        if axis is None or not graph.layers(tensor.name):
            kept = _unmultiplied(tensor, role, graph)
            stack = (1, _TURNED) if axis == _TURNED else None
            meanings.append(kept if stack is None else replace(kept, role="embedding", stack=stack))
            continue
        is_told = role not in {"weight", "embedding"}
        found = role if is_told else _of_graph(tensor, graph, axis)
        meanings.append(Meaning(found, None, None, (1, _TURNED) if axis == _TURNED else None))
    return meanings


def _called(tensor: Tensor, graph: Graph, axis: int | None) -> Tensor:
    """A tensor under the name of the module that it is of, as far as names tell."""
    shape = tensor.shape[::-1] if axis == _TURNED else tensor.shape
    name = _OPERATOR.sub("", tensor.name)
    nodes = graph.layers(tensor.name) if axis is not None else []
    if nodes and _UNNAMED.search(tensor.name) and "/" in nodes[0].name:
        path = _OPERATOR.sub("", nodes[0].name).strip("/").replace("/", ".")
        name = f"{path}.weight"
    elif nodes and not name.endswith(".weight"):
        name = f"{name}.weight"
    return Tensor(name, tensor.dtype, shape)


def _of_graph(tensor: Tensor, graph: Graph, axis: int) -> str:
    """The role of a layer whose name tells none."""
    outputs = tensor.shape[-1] if axis == _TURNED else tensor.shape[0]
    nodes = graph.layers(tensor.name)
    is_table = len(nodes) < len(graph.uses(tensor.name))
    if is_table or any(graph.is_head(node) for node in nodes):
        return "head"
    if outputs <= _MOST_EXPERTS and any(graph.chooses_experts(node) for node in nodes):
        return "router"
    return "weight"


def _unmultiplied(tensor: Tensor, role: str, graph: Graph) -> Meaning:
    """The meaning of a tensor that is no layer's matrix."""
    users = graph.users.get(tensor.name, [])
    for node, index in users:
        if _QUANTIZED.match(node.operator):
            is_codes = not is_float(tensor.dtype) and index in {0, 1}
            reason = f"already_quantized ({node.operator})"
            return Meaning("weight" if is_codes else "companion", reason)
    if any(node.operator.startswith("Conv") for node, _ in users):
        return Meaning("bias" if len(tensor.shape) == 1 else "conv")
    is_table = any(use.is_lookup for use in graph.uses(tensor.name)) or any(
        node.operator == "Gather" and index == 0 and node.number("axis", 0) == 0
        for node, index in users
    )
    if is_table and len(tensor.shape) == _MATRIX and is_float(tensor.dtype):
        return Meaning(role if role == "position" else "embedding")
    return Meaning("other" if role in {"weight", "head"} else role)
