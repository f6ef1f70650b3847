"""The options of a call, checked in one place before any work."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeAlias, TypedDict

from arrowquant import _core

if TYPE_CHECKING:
    from arrowquant._importance import Importance

Scheme: TypeAlias = str
"""What is done with a layer: one of `arrowquant.schemes()`; `none` keeps it as it is."""

ScaleDtype: TypeAlias = Literal["source", "F32", "F16", "BF16"]
"""What scales are rounded to; `source`: F16 or BF16 as the weights, else F32."""

Search: TypeAlias = Literal["none", "mse", "weighted"]
"""How scales are chosen; `none`: from each group's extremes; `mse`: for the least squared error;
`weighted`: the same, each error times how much its column matters."""


class Settings(TypedDict, total=False):
    """How layers are quantized, beside the scheme; what is absent or None is the scheme's default.

    `_core.settings()` has them all, with what each means.
    """

    group_size: int | None
    group_rows: int | None
    symmetric: bool | None
    scale_dtype: ScaleDtype | None
    signed_scales: bool | None
    search: Search | None


SETTINGS = {name: column for name, column, *_ in _core.settings()}
"""What each setting is called in calls, and in plans and relations."""

Dtype: TypeAlias = Literal["source", "F32"]
"""What decoded weights are: each layer's own type, or float32."""

Target: TypeAlias = Literal[
    "compressed-tensors",
    "fp8",
    "modelopt",
    "mlx",
    "bitsandbytes",
    "gptq",
    "awq",
    "gguf",
    "onnx",
    "onnx-qdq",
    "safetensors",
]
"""What an export is for."""

RuntimeName: TypeAlias = Literal[
    "llama.cpp", "mlx", "vllm", "transformers", "bitsandbytes", "onnxruntime"
]
"""What runs a model."""

Mode: TypeAlias = Literal["base", "diffusion"]
"""What the dictionary API's models are; it changes nothing."""


@dataclass(frozen=True)
class Options:
    """What to do with layers that no plan says otherwise of.

    The names of schemes, and what settings may be, are checked by the core, which lists the
    choices.

    Raises:
        TypeError: There is no such option, or it has a type that it can't have.
    """

    scheme: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    continue_on_error: bool = False
    absmax: Mapping[str, float] = field(default_factory=dict)
    """The largest magnitudes of whole layers, by layer, where they are known."""
    importance: Importance | None = None
    """How much the columns of layers matter, where it is known."""
    suggested: Importance | None = None
    """How much the weights of whole layers suggest that, for layers in parts."""
    fallback: Sequence[str] | None = None
    """What plans take for shapes that the scheme does not; None: the scheme's own."""

    @property
    def known_importance(self) -> _core.Importance | None:
        """The same as the core reads it."""
        return None if self.importance is None else self.importance.core

    @property
    def suggested_importance(self) -> _core.Importance | None:
        """What is suggested as the core reads it."""
        return None if self.suggested is None else self.suggested.core

    def __post_init__(self) -> None:
        """Check types: a bool is an int in Python, and would pass for a group size of 1."""
        _check("scheme", self.scheme, str, optional=True)
        object.__setattr__(self, "settings", check_settings(self.settings))
        _check_integer("threads", self.threads)
        _check("continue_on_error", self.continue_on_error, bool)
        if isinstance(self.fallback, str):
            raise TypeError(f"fallback must be a list of schemes, got {self.fallback!r}.")
        if self.fallback is not None:
            object.__setattr__(self, "fallback", list(self.fallback))


_KINDS = {"int": int, "bool": bool, "str": str}
_KIND_OF = {name: _KINDS[kind] for name, _, kind, *_ in _core.settings()}


def check_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say something.

    Raises:
        TypeError: There is no such setting, or it has a type that it can't have.
    """
    said = {}
    for name, value in given.items():
        kind = _KIND_OF.get(name)
        if kind is None:
            raise TypeError(f"there is no option {name!r}. Settings are {', '.join(_KIND_OF)}.")
        if kind is int:
            _check_integer(name, value)
        else:
            _check(name, value, kind, optional=True)
        if value is not None:
            said[name] = operator.index(value) if kind is int else value
    return said


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
