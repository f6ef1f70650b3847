"""ONNX Runtime: integers in blocks of 32, as the builder of onnxruntime-genai makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from arrowquant._runtimes.base import Asked, Row, Runtime, Way, rule

_HEAD = ("role:head",)
_SETTINGS = {"group_size": 32, "symmetric": True, "search": "weighted"}
_SIGNED = _SETTINGS | {"signed_scales": True}
"""Four bits gain by it. Its own quantizer does so, too (`range2scale` in MLAS's `q4_dq.cpp`)."""
_FOUR = 4


class OnnxRuntime(Runtime):
    """`MatMulNBits`. Heads get 8 bits, and what chooses experts is kept."""

    name = "onnxruntime"
    ways: ClassVar[Mapping[int, Way]] = {
        8: Way("int8", "onnx", _SETTINGS, include=_HEAD),
        4: Way("int4", "onnx", _SIGNED, include=_HEAD),
    }
    refusals: ClassVar[Mapping[int, str]] = {
        3: "it has no operator for 3 bits.",
        2: "2 bits need calibration data to be of use.",
    }

    def rules(self, asked: Asked) -> list[Row]:
        """Heads at 8 bits."""
        if asked.bits != _FOUR:
            return []
        planned = asked.plan("int8", _SETTINGS)
        return [
            rule(row, planned[row["layer_name"]]) for row in asked.rows if row["role"] == "head"
        ]
