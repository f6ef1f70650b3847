"""What a model becomes for a runtime at a size: a file for each, and a line for each in `ALL`.

A runtime says which scheme its users take, what differs from layer to layer, and which exporter
writes it. What the user says explicitly is stronger.
"""

from __future__ import annotations

from arrowquant._runtimes.base import BITS, Runtime, Way
from arrowquant._runtimes.llama_cpp import LlamaCpp
from arrowquant._runtimes.mlx import Mlx
from arrowquant._runtimes.onnxruntime import OnnxRuntime
from arrowquant._runtimes.transformers import Bitsandbytes, Transformers
from arrowquant._runtimes.vllm import Vllm

__all__ = ["ALL", "Runtime", "Way", "find", "usual_search"]

ALL: dict[str, Runtime] = {
    one.name: one
    for one in (LlamaCpp(), Mlx(), Vllm(), Transformers(), Bitsandbytes(), OnnxRuntime())
}


def find(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in ALL:
        raise ValueError(f"unknown runtime {name!r}. Choose one of {', '.join(ALL)}.")
    return ALL[name]


def usual_search(name: str, bits: int | None) -> str:
    """How a runtime's scheme is searched where nothing is said.

    Raises:
        ValueError: There is no such runtime, or none of that size.
    """
    return find(name).usual_search(BITS if bits is None else bits)
