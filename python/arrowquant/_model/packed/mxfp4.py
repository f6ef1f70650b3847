"""gpt-oss' MXFP4: stacks of experts, as the decoded parameter would be, each matrix turned around.

Source: transformers' `integrations/mxfp4.py`.
"""

from __future__ import annotations

from arrowquant._model.packed.codes import Codes, Group

_BLOCK_DIMENSIONS = 4


def read(group: Group) -> Codes | None:
    """The weights of a group, if it is one."""
    stem, scales = group.weight.name.removesuffix("_blocks"), group.ending("_scales")
    if stem == group.weight.name or scales is None or scales.dtype != "U8":
        return None
    if group.weight.dtype != "U8" or len(group.weight.shape) != _BLOCK_DIMENSIONS:
        return None
    return group.codes("mxfp4", {"scale": scales}, layer=stem, numbers={"is_stack": 1})
