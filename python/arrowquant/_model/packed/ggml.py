"""GGUF's NVFP4, whose tensor may have a scale beside it; other blocks lie in one tensor.

Source: `conversion/base.py` of llama.cpp, which writes `blk.N.x.scale` beside `blk.N.x.weight`.
"""

from __future__ import annotations

from arrowquant._model.packed.codes import Codes, Group


def read(group: Group) -> Codes | None:
    """The weights of a group, if it is one."""
    scale = group.ending(".scale")
    if group.weight.dtype != "NVFP4" or scale is None or scale.dtype != "F32":
        return None
    return group.codes("ggml", {"multiplier": scale})
