"""ModelOpt's NVFP4: `weight`, `weight_scale`, and `weight_scale_2`, which multiplies.

Source: `modelopt/torch/quantization/qtensor/nvfp4_tensor.py` of NVIDIA's Model Optimizer.
"""

from __future__ import annotations

from arrowquant._model.packed.codes import Codes, Group


def read(group: Group) -> Codes | None:
    """The weights of a group, if it is one."""
    scale, second = group.ending(".weight_scale"), group.ending(".weight_scale_2")
    if group.weight.dtype != "U8" or scale is None or second is None:
        return None
    if scale.dtype != "F8_E4M3":
        return None
    return group.codes("nvfp4", {"scale": scale, "multiplier": second})
