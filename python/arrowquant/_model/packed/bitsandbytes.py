"""bitsandbytes' `nf4` and `fp4`, with scales that are quantized themselves or not, and its int8.

Source: `QuantState.as_dict` in bitsandbytes' `functional.py`, `Linear8bitLt` in `nn/modules.py`.
"""

from __future__ import annotations

from arrowquant._model.packed.codes import Codes, Group


def read(group: Group) -> Codes | None:
    """The weights of a group, if it is one."""
    scales = group.ending(".SCB")
    if group.weight.dtype == "I8" and scales is not None:
        return group.codes(
            "integers",
            {"scale": scales, "form": group.ending(".weight_format")},
            numbers={"is_absmax": 1},
        )
    states = (t for name, t in group.companions.items() if ".quant_state.bitsandbytes__" in name)
    state, absmax = next(states, None), group.ending(".absmax")
    if state is None or absmax is None:
        return None
    sides = {
        "absmax": absmax,
        "state": state,
        "nested_absmax": group.ending(".nested_absmax"),
        "nested_map": group.ending("nested_quant_map"),
    }
    return group.codes("bitsandbytes", sides)
