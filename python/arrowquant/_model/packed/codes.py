"""A tensor of codes and what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from arrowquant._model.config import Config
from arrowquant._model.tensor import Tensor


@dataclass(frozen=True)
class Codes:
    """How weights are read that another tool has quantized."""

    format: str
    """Of those that the core knows."""
    layer: str
    """The name of the layer that they make."""
    dtype: str
    """Of the weights that they decode to."""
    tensors: Mapping[str, str]
    """The tensors that belong to it, by what each is."""
    companions: tuple[str, ...]
    """All tensors that make it, but one that is called as the layer is."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    """What is said of it, such as its bits."""
    paths: Mapping[str, Path] = field(default_factory=dict)
    """Where tensors are that are in other files."""


def whole(said: object) -> int | None:
    """A whole number that a configuration says; None where it is none, or beyond 64 bits."""
    return said if type(said) is int and -(2**63) <= said < 2**63 else None


@dataclass(frozen=True)
class Group:
    """A tensor with those that belong to it, and what is said of the checkpoint."""

    weight: Tensor
    companions: Mapping[str, Tensor]
    dtype: str
    """Of the model's weights."""
    config: Config

    def ending(self, *suffixes: str) -> Tensor | None:
        """The companion whose name ends so."""
        found = (t for name, t in self.companions.items() if name.endswith(suffixes))
        return next(found, None)

    def codes(
        self,
        form: str,
        sides: Mapping[str, Tensor | None],
        *,
        layer: str | None = None,
        numbers: Mapping[str, int] | None = None,
    ) -> Codes:
        """What the core is told of the group."""
        name = self.weight.name if layer is None else layer
        names = [self.weight.name, *self.companions]
        return Codes(
            form,
            name,
            self.dtype,
            {role: side.name for role, side in sides.items() if side is not None},
            tuple(one for one in names if one != name),
            numbers or {},
        )
