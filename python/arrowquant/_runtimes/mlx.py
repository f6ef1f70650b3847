"""MLX's defaults, as `mlx_lm.convert -q` has them, with routers kept.

Source: `mixed_quant_predicate_builder` in mlx-lm's `convert.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from arrowquant._runtimes.base import Plan, Row, Runtime, Way, block_of, blocks_in, gets_more, rule

_ALL = ("role:embedding", "role:head")
_SIZE, _SMALLER = 64, 32
_MORE = re.compile(r"\.(v_proj|down_proj|w2)\.weight$|\.down_proj(\.weight)?\[\d+\]$")
_KEEP = ("*.self_attn.kv_b_proj.weight",)
"""What mlx-lm takes apart as it loads."""
_HIGH = "mlx6"


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

    def rules(
        self,
        bits: int,
        rows: Sequence[Row],
        plan: Plan,
        metadata: Mapping[str, Any],
        said: Mapping[str, Any],
    ) -> list[Row]:
        """Groups of 32 where 64 don't fit; and with 2 and 3 bits the layers that get 6."""
        del metadata, said
        blocks = blocks_in(rows)
        has_head = any(row["role"] == "head" for row in rows)
        found = []
        for row in rows:
            is_output = row["role"] == "head" or (row["role"] == "embedding" and not has_head)
            block = block_of(row["layer_name"])
            has_more = bool(_MORE.search(row["layer_name"]))
            is_high = bits <= 3 and (  # noqa: PLR2004
                is_output or (has_more and block is not None and gets_more(block, blocks))
            )
            if is_high:
                planned = plan(_HIGH, {})[row["layer_name"]]
                if planned["scheme"] != "none":
                    found.append(rule(row, planned))
        return found + self._smaller(bits, plan)

    def _smaller(self, bits: int, plan: Plan) -> list[Row]:
        """The layers that only smaller groups fit."""
        scheme = self.ways[bits].scheme
        usual, smaller = plan(scheme, {}), plan(scheme, {"group_size": _SMALLER})
        return [
            rule(smaller[name], smaller[name])
            for name, row in usual.items()
            if row["scheme"] == "none"
            and row["reason"] == "unsupported_shape"
            and smaller[name]["scheme"] != "none"
        ]
