"""What can be written: a file for each format, and a line for each in `ALL`."""

from __future__ import annotations

from arrowquant._export.formats.base import Format
from arrowquant._export.formats.bitsandbytes import Bitsandbytes
from arrowquant._export.formats.compressed_tensors import CompressedTensors
from arrowquant._export.formats.fp8 import Fp8
from arrowquant._export.formats.gguf import Gguf
from arrowquant._export.formats.gptq import Awq, Gptq
from arrowquant._export.formats.mlx import Mlx
from arrowquant._export.formats.modelopt import ModelOpt
from arrowquant._export.formats.onnx import Onnx, OnnxQdq
from arrowquant._export.formats.safetensors import Safetensors

__all__ = ["ALL", "Format", "find"]

ALL: dict[str, Format] = {
    one.name: one
    for one in (
        CompressedTensors(),
        Fp8(),
        ModelOpt(),
        Mlx(),
        Bitsandbytes(),
        Gptq(),
        Awq(),
        Gguf(),
        Onnx(),
        OnnxQdq(),
        Safetensors(),
    )
}


def find(name: str) -> Format:
    """The format of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in ALL:
        raise ValueError(f"unknown format {name!r}. Choose one of {', '.join(ALL)}.")
    return ALL[name]
