"""What a runtime says of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from arrowquant import _core
from arrowquant._export import formats
from arrowquant._export.formats import Format

BITS = 4
"""The size in bits a weight, where nothing is said."""
Row = dict[str, Any]
"""A row of a plan."""
Plan = Callable[[str, Mapping[str, Any]], Mapping[str, Row]]
"""The plan's rows, by layer, were all layers to be of a scheme with such settings."""
_BLOCK = re.compile(r"(?:^|\.)(?:layers|blk|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Way:
    """How a model of some size is quantized for a runtime."""

    scheme: str
    format: str
    """The exporter's name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    """Roles that are quantized, too."""
    keep: tuple[str, ...] = ()
    """Patterns of names that are kept."""
    fallback: tuple[str, ...] | None = None
    """What layers become that don't fit; None: the scheme's own."""
    warning: str | None = None
    """What to say beforehand."""


@dataclass(frozen=True)
class Asked:
    """What a runtime is asked for."""

    bits: int
    rows: Sequence[Row]
    """The plan's rows of layers that are quantized."""
    plan: Plan
    metadata: Mapping[str, Any]
    """What the source says beside its tensors."""
    said: Mapping[str, Any]
    """The settings that the user gives, which are stronger."""

    @property
    def blocks(self) -> int:
        """How many blocks the model has."""
        found = [block for row in self.rows if (block := block_of(row["layer_name"])) is not None]
        return max(found, default=-1) + 1

    @property
    def has_head(self) -> bool:
        """Whether the head is a layer of its own, not the table of embeddings."""
        return any(row["role"] == "head" for row in self.rows)

    def is_output(self, row: Row) -> bool:
        """Whether a layer is the head, or the table of embeddings that is it, too."""
        return row["role"] == "head" or (row["role"] == "embedding" and not self.has_head)


class Runtime:
    """A program that runs models, with what its users take for each size."""

    name: ClassVar[str]
    """What `target=` and `--for` call it."""
    ways: ClassVar[Mapping[int, Way]]
    """For how many bits a weight there is a way."""
    refusals: ClassVar[Mapping[int, str]] = {}
    """Why there is none for others, and what to do."""

    def way(self, bits: int) -> Way:
        """How a model of that size is quantized.

        Raises:
            ValueError: There is none; the text says what to do.
        """
        if bits in self.ways:
            return self.ways[bits]
        why = self.refusals.get(bits, "")
        choices = ", ".join(map(str, self.ways))
        raise ValueError(
            f"{self.name} has no way for {bits} bits{f': {why}' if why else '.'} Choose {choices}, "
            "or name a scheme (--scheme)."
        )

    def usual_search(self, bits: int) -> str:
        """How scales are chosen at that size, where nothing is said.

        Raises:
            ValueError: There is no way for that size.
        """
        way = self.way(bits)
        found: str = way.settings.get("search") or _core.default_search(way.scheme)
        return found

    def format(self, scheme: str, bits: int) -> Format:
        """The exporter for a scheme that the user named."""
        del scheme
        return formats.find(self.way(bits).format)

    def rules(self, asked: Asked) -> list[Row]:
        """What differs from the way: rows with `layer_name`, `scheme` and settings."""
        del asked
        return []


def block_of(name: str) -> int | None:
    """Which of the model's blocks a layer is in."""
    match = _BLOCK.search(name)
    return None if match is None else int(match[1])


def gets_more(block: int, blocks: int) -> bool:
    """Whether mixtures give a block more bits: the first and last eighth, every third between.

    Source: `use_more_bits` in llama.cpp's `src/llama-quant.cpp`.
    """
    eighth = blocks // 8
    return block < eighth or block >= 7 * blocks // 8 or (block - eighth) % 3 == 2  # noqa: PLR2004


def rule(row: Row, other: Row) -> Row:
    """A rule that gives a layer the scheme and settings of another plan's row."""
    settings = {
        name: other[name]
        for name in ("group_size", "group_rows", "is_symmetric", "scale_dtype", "signed_scales")
        if other.get(name) is not None
    }
    if settings.get("scale_dtype") not in {"F32", "F16", "BF16", None}:
        settings.pop("scale_dtype")
    said = {"layer_name": row["layer_name"], "scheme": other["scheme"], **settings}
    return said | ({"note": other["note"]} if other.get("note") else {})
