"""MLX's defaults, as `mlx_lm.convert -q` has them, with routers kept.

Source: `mixed_quant_predicate_builder` in mlx-lm's `convert.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from arrowquant._runtimes.base import Asked, Row, Runtime, Way, block_of, gets_more, rule

_ALL = ("role:embedding", "role:head")
_SMALLER = 32
_MORE = re.compile(r"\.(v_proj|down_proj|w2)\.weight$|\.down_proj(\.weight)?\[\d+\]$")
_KEEP = ("*.self_attn.kv_b_proj.weight",)
"""What mlx-lm takes apart as it loads."""
_HIGH = "mlx6"
_MIXED = (3, 2)


class Mlx(Runtime):
    """Affine groups of 64."""

    name = "mlx"
    ways: ClassVar[Mapping[int, Way]] = {
        bits: Way(f"mlx{bits}", "mlx", include=_ALL, keep=_KEEP) for bits in (8, 4, 3)
    } | {
        2: Way(
            "mlx2",
            "mlx",
            include=_ALL,
            keep=_KEEP,
            warning="2 bits lose much of what a model knows. Look at the SNR, or take 3 bits.",
        )
    }

    def rules(self, asked: Asked) -> list[Row]:
        """Groups of 32 where 64 don't fit; and with 2 and 3 bits the layers that get 6."""
        found = []
        for row in asked.rows:
            block = block_of(row["layer_name"])
            has_more = block is not None and _MORE.search(row["layer_name"])
            if asked.bits in _MIXED and (
                asked.is_output(row) or (has_more and gets_more(block or 0, asked.blocks))
            ):
                planned = asked.plan(_HIGH, {})[row["layer_name"]]
                if planned["scheme"] != "none":
                    found.append(rule(row, planned))
        return found + self._smaller(asked)

    def _smaller(self, asked: Asked) -> list[Row]:
        """The layers that only smaller groups fit."""
        scheme = self.ways[asked.bits].scheme
        usual, smaller = asked.plan(scheme, {}), asked.plan(scheme, {"group_size": _SMALLER})
        return [
            rule(smaller[name], smaller[name])
            for name, row in usual.items()
            if row["scheme"] == "none"
            and row["reason"] == "unsupported_shape"
            and smaller[name]["scheme"] != "none"
        ]
