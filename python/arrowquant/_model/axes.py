"""What users say of stacks whose contracted axis nothing else tells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa

AxisRules = tuple[tuple[str, int], ...]
"""Patterns of names, and the axis of the stacks that match."""

_AXES = (-1, -2)
_MATRIX = re.compile(r"\[\d+\]$")


@dataclass(frozen=True)
class StackAxes:
    """One answer for all stacks, and answers for some."""

    default: int | None = None
    rules: AxisRules = ()

    def of(self, name: str) -> int | None:
        """What is said of the stack of that name: -1, -2, or nothing. The first rule counts."""
        for pattern, axis in self.rules:
            if pattern == name or fnmatchcase(name, pattern):
                return axis
        return self.default


def axis_rules(plan: pa.Table | None) -> AxisRules:
    """The answers in a plan's column `stack_axis`; a matrix answers for its stack.

    Raises:
        ValueError: Two matrices of a stack have different ones, or one is neither -1 nor -2.
    """
    if plan is None or not {"layer_name", "stack_axis"} <= set(plan.schema.names):
        return ()
    return rules_of(
        zip(plan["layer_name"].to_pylist(), plan["stack_axis"].to_pylist(), strict=True)
    )


def rules_of(pairs: Iterable[tuple[str | None, Any]]) -> AxisRules:
    """The rules of names and axes, each stack once; see `axis_rules`."""
    found: dict[str, int] = {}
    for name, axis in pairs:
        if name is None or axis is None:
            continue
        if isinstance(axis, bool) or axis not in _AXES:
            raise ValueError(f"plan: stack_axis of '{name}' must be -1 or -2, got {axis!r}.")
        stack = _MATRIX.sub("", name)
        if found.setdefault(stack, int(axis)) != axis:
            raise ValueError(
                f"plan: matrices of '{stack}' have stack_axis {found[stack]} and {axis}. Give all "
                "of a stack the same."
            )
    return tuple(found.items())
