"""vLLM: FP8 with a scale for each row, or symmetric int4, in compressed-tensors' format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from arrowquant._export import formats
from arrowquant._export.formats import Format
from arrowquant._runtimes.base import Asked, Row, Runtime, Way

_SIZES = (128, 64, 32)
"""Group sizes that its kernels take, the largest first."""
_SETTINGS = {"symmetric": True, "group_size": _SIZES[0], "search": "weighted"}
"""Symmetric integers gain by a search, which others of these do not everywhere."""


class Vllm(Runtime):
    """compressed-tensors."""

    name = "vllm"
    ways: ClassVar[Mapping[int, Way]] = {
        8: Way("fp8_e4m3", "compressed-tensors"),
        4: Way("int4", "compressed-tensors", _SETTINGS),
    }
    refusals: ClassVar[Mapping[int, str]] = {
        3: "its kernels for 3 bits were not seen to run.",
        2: "2 bits need calibration data to be of use.",
    }

    def format(self, scheme: str, bits: int) -> Format:
        """compressed-tensors, whatever the scheme."""
        del scheme, bits
        return formats.find("compressed-tensors")

    def rules(self, asked: Asked) -> list[Row]:
        """The largest groups that divide rows; where none do, the layer is kept."""
        if asked.bits != 4:  # noqa: PLR2004
            return []
        largest = asked.said.get("group_size", _SIZES[0])
        if largest == -1:
            return []
        found: list[Row] = []
        for row in asked.rows:
            columns = row["shape"][-1]
            sizes = [size for size in (largest, *_SIZES) if size <= largest]
            size = next((size for size in sizes if columns % size == 0), None)
            if size is None:
                found.append({"layer_name": row["layer_name"], "scheme": "none"})
            elif size != largest:
                found.append(
                    {"layer_name": row["layer_name"], "scheme": "int4", "group_size": size}
                )
        return found
