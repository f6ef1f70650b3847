"""GPTQ's and AWQ's packed integers; how they are packed stands in `config.json` alone.

Sources: GPTQModel's `QuantizeConfig`, AutoAWQ's `AwqConfig`.
"""

from __future__ import annotations

from arrowquant._model.packed.codes import Codes, Group, whole

_V2 = "gptq_v2"
_FORMS = (None, "gptq", _V2)


def read(group: Group) -> Codes | None:
    """The weights of a group, if it is one."""
    said = group.config.quantization or {}
    zeros, scales = group.ending(".qzeros"), group.ending(".scales")
    stem = group.weight.name.removesuffix(".qweight")
    if stem == group.weight.name or zeros is None or scales is None:
        return None
    bits, size = whole(said.get("bits")), whole(said.get("group_size"))
    if bits is None or size is None:
        return None
    sides = {"zeros": zeros, "scales": scales, "order": group.ending(".g_idx")}
    layer, method = f"{stem}.weight", group.config.quant_method
    numbers = {"bits": bits, "group_size": size}
    if method == "awq" and str(said.get("version", "gemm")).lower() == "gemm" and bits == 4:  # noqa: PLR2004
        return group.codes("awq", sides, layer=layer, numbers=numbers)
    form = said.get("checkpoint_format", said.get("format"))
    if method != "gptq" or form not in _FORMS:
        return None
    numbers["zeros_less_one"] = int(form != _V2)
    return group.codes("gptq", sides, layer=layer, numbers=numbers)
