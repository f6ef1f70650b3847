"""What is known of a tensor before its bytes are read."""

from __future__ import annotations

from dataclasses import dataclass

_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Tensor:
    """A tensor, as a file's header says."""

    name: str
    dtype: str
    shape: list[int]


def is_float(dtype: str) -> bool:
    """Whether it is a type of weights that are not quantized."""
    return dtype in _FLOATS
