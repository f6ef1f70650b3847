"""Where rows of layers go in the files of a runtime."""

from __future__ import annotations

from dataclasses import dataclass

from arrowquant._options import SETTINGS

SETTING_OF = {column: name for name, column in SETTINGS.items()}


@dataclass(frozen=True)
class Target:
    """Some rows of a layer, as a matrix of its own or as one of a stack."""

    name: str
    """Of the parameter."""
    count: int
    """How many rows."""
    first: int = 0
    step: int = 1
    """From one row to the next."""
    stack: tuple[int, int] | None = None
    """Which of how many matrices."""
    view: tuple[int, int] | None = None
    """The matrix as which the layer is taken, where it has another shape."""
    shape: tuple[int, ...] | None = None
    """Of the tensor then."""


@dataclass(frozen=True)
class Said:
    """A layer as the core is told of it."""

    name: str
    dtype: str
    shape: list[int]
    scheme: str | None
    settings: dict[str, int | bool | str]
    tensor_scale: float | None
