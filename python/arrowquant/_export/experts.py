"""Experts: split into matrices of their own, or put into stacks, as loaders want them.

Sources: transformers' `conversion_mapping.py`, vLLM's `fused_moe` loaders, mlx-lm's `models/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from arrowquant._export.layers import Layer, Layers
from arrowquant._export.places import Target
from arrowquant._model import Config
from arrowquant._model.experts import is_interleaved, is_known, part_of

_SINGLE = re.compile(r"^(?P<block>.*experts)\.(?P<index>\d+)\.(?P<part>\w+)\.weight$")
_SHORT = {"mixtral", "minimax", "minimax_m2", "phimoe"}
"""Models whose projections are called `w1`, `w3` and `w2`."""
_SHORT_NAMES = {"gate": "w1", "up": "w3", "down": "w2"}
_PARTS = {
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "w1": "gate",
    "w3": "up",
    "w2": "down",
}


class Experts:
    """The experts of a checkpoint."""

    def __init__(self, layers: Layers, config: Config) -> None:
        self.config = config
        self.short = any(name in _SHORT for name in config.model_types)
        self.interleaved = is_interleaved(config)
        self.inner: dict[str, int] = {}
        """Columns of a block's `down`."""
        self.split: set[str] = set()
        """Blocks of which a matrix is written as codes."""
        self.counts: dict[str, int] = {}
        """How many experts a block has that are modules of their own."""
        self._found: dict[tuple[str, str], set[int]] = {}
        """Which experts a block has a projection of."""
        self._places: dict[str, tuple[str, str, int, int] | None] = {}
        for layer in layers.layers:
            place = self._place(layer)
            self._places[layer.name] = place
            if place is None:
                continue
            block, part, index, _ = place
            if part == "down":
                self.inner[block] = layer.shape[1]
            self._found.setdefault((block, part), set()).add(index)
            if layer.stack is None:
                self.counts[block] = max(self.counts.get(block, 0), index + 1)
            if not layer.decoded:
                self.split.add(block)

    @staticmethod
    def _place(layer: Layer) -> tuple[str, str, int, int] | None:
        matrix = 2
        if layer.stack is not None:
            found = part_of(layer.stack.name)
            return found and (*found, layer.stack.index, layer.stack.count(layer.shape))
        match = _SINGLE.match(layer.name)
        if match is None or len(layer.shape) != matrix or match["part"] not in _PARTS:
            return None
        return match["block"], _PARTS[match["part"]], int(match["index"]), 0

    def place(self, layer: Layer) -> tuple[str, str, int, int] | None:
        """The block, projection, index and count of an expert's matrix; None where it is none.

        The projection is `gate_up`, `gate`, `up` or `down`.
        """
        place = self._places[layer.name]
        if place is None or place[3]:
            return place
        return (*place[:3], self.counts[place[0]])

    def is_complete(self, block: str, part: str) -> bool:
        """Whether every expert of a block has that projection: a stack has no holes."""
        found = self._found[block, part]
        return len(found) == max(max(found) + 1, self.counts.get(block, 0))

    def single(self, layer: Layer) -> Sequence[Target] | str | None:
        """The modules that a matrix of a stack becomes, each expert's its own."""
        if layer.stack is None:
            return None
        place = self.place(layer)
        if place is None or place[0] not in self.split:
            what = f"it is a matrix of '{layer.stack.name}', which is no stack of experts"
            return None if layer.decoded else what
        why = self.why_not_split(layer)
        if why is not None:
            return why
        block, part, index, _ = place
        stem = f"{block if block.endswith('experts') else f'{block}.experts'}.{index}"
        return [
            Target(f"{stem}.{self.name(own)}.weight", count, first, step)
            for own, first, step, count in self.halves(block, part, layer.shape[0])
        ]

    def why_not_split(self, layer: Layer) -> str | None:
        """Why gate and up of a fused matrix can't be told apart; None where they can."""
        place = self.place(layer)
        if place is None or is_known(self.config) or len(self._halves(layer)) == 1:
            return None
        name = next(iter(self.config.model_types), None)
        which = "this model" if name is None else f"model_type '{name}'"
        return (
            f"gate and up are one matrix, and their order is not known for {which}. Keep the "
            "experts (--keep NAME), or write them decoded"
        )

    def _halves(self, layer: Layer) -> list[tuple[str, int, int, int]]:
        place = self.place(layer)
        return [] if place is None else self.halves(place[0], place[1], layer.shape[0])

    def halves(self, block: str, part: str, rows: int) -> list[tuple[str, int, int, int]]:
        """The projections in a matrix: which, its first row, the step, and how many rows."""
        inner = self.inner.get(block)
        # Rows of gate and up are as many as `down` has columns, twice.
        is_pair = rows % 2 == 0 and (inner is None or rows == 2 * inner)
        if part != "gate_up" or not is_pair:
            return [(part, 0, 1, rows)]
        half = rows // 2
        if self.interleaved:
            return [("gate", 0, 2, half), ("up", 1, 2, half)]
        return [("gate", 0, 1, half), ("up", half, 1, half)]

    def name(self, part: str) -> str:
        """What the model calls a projection of one expert."""
        return _SHORT_NAMES.get(part, part) if self.short else f"{part}_proj"
