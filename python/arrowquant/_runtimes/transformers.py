"""transformers: FP8 in blocks, or bitsandbytes' NF4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from arrowquant._export import formats
from arrowquant._export.formats import Format
from arrowquant._model import fused_key
from arrowquant._runtimes.base import Asked, Row, Runtime, Way

_BLOCK = 128
_FEW = "2 and 3 bits need calibration data to be of use."
_FOUR = ("nf4", "nf4_dq", "bnb_fp4", "bnb_fp4_dq")
_FORMATS = {"fp8_e4m3": "fp8", **dict.fromkeys(_FOUR, "bitsandbytes")}
"""By the scheme; others go as compressed-tensors, which transformers loads, too."""


class Transformers(Runtime):
    """FP8 of 128 by 128, or NF4."""

    name = "transformers"
    ways: ClassVar[Mapping[int, Way]] = {
        8: Way("fp8_e4m3", "fp8", {"group_size": _BLOCK, "group_rows": _BLOCK}),
        4: Way("nf4_dq", "bitsandbytes"),
    }
    refusals: ClassVar[Mapping[int, str]] = {3: _FEW, 2: _FEW}

    def format(self, scheme: str, bits: int) -> Format:
        """The layout for a scheme."""
        del bits
        return formats.find(_FORMATS.get(scheme, "compressed-tensors"))

    def rules(self, asked: Asked) -> list[Row]:
        """Shapes that no whole blocks cover are kept, and what loaders put together with them."""
        if asked.bits != 8:  # noqa: PLR2004
            return []
        ragged = {
            fused_key(row["layer_name"])
            for row in asked.rows
            if any(size % _BLOCK for size in row["shape"])
        }
        return [
            {"layer_name": row["layer_name"], "scheme": "none"}
            for row in asked.rows
            if fused_key(row["layer_name"]) in ragged
        ]


class Bitsandbytes(Runtime):
    """NF4."""

    name = "bitsandbytes"
    ways: ClassVar[Mapping[int, Way]] = {4: Way("nf4_dq", "bitsandbytes")}
    refusals: ClassVar[Mapping[int, str]] = {
        8: "its int8 is not written; vllm and transformers have FP8.",
        3: _FEW,
        2: _FEW,
    }
