"""The options of a call, checked in one place before any work."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal, SupportsIndex, TypeAlias

Scheme: TypeAlias = Literal["int8", "int4", "int2", "none"]
"""What is done with a layer; `none` keeps it as it is."""

ScaleDtype: TypeAlias = Literal["source", "F32", "F16", "BF16"]
"""What scales are rounded to; `source`: F16 or BF16 as the weights, else F32."""

Dtype: TypeAlias = Literal["source", "F32"]
"""What decoded weights are: each layer's own type, or float32."""

Target: TypeAlias = Literal["compressed-tensors", "safetensors"]
"""What an export is for."""

Mode: TypeAlias = Literal["base", "diffusion"]
"""What the dictionary API's models are; it changes nothing."""


@dataclass(frozen=True)
class Options:
    """What to do with layers that no plan says otherwise of.

    The names of schemes and scale dtypes, and the range of the group size, are checked by the
    core, which lists the choices.

    Raises:
        TypeError: An option has a type that it can't have.
    """

    scheme: str = "int4"
    group_size: int | None = None
    symmetric: bool | None = None
    scale_dtype: str = "source"
    threads: int | None = None
    continue_on_error: bool = False

    def __post_init__(self) -> None:
        """Check types: a bool is an int in Python, and would pass for a group size of 1."""
        _check("scheme", self.scheme, str)
        _check_integer("group_size", self.group_size)
        _check("symmetric", self.symmetric, bool, optional=True)
        _check("scale_dtype", self.scale_dtype, str)
        _check_integer("threads", self.threads)
        _check("continue_on_error", self.continue_on_error, bool)


def _check_integer(name: str, value: object) -> None:
    """NumPy's integers pass; a bool does not."""
    if value is None or (type(value) is int and -(2**63) <= value < 2**63):
        return
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be int or None, got {value!r}.")
    if not -(2**63) <= operator.index(value) < 2**63:
        raise ValueError(f"{name} is beyond 64 bits: {value!r}.")


def _check(name: str, value: object, kind: type, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, kind):
        expected = kind.__name__ + (" or None" if optional else "")
        raise TypeError(f"{name} must be {expected}, got {value!r}.")
