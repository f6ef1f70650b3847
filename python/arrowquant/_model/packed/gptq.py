"""GPTQ's and AWQ's packed integers; how they are packed stands in `config.json` alone.

Sources: GPTQModel's `QuantizeConfig`, AutoAWQ's `AwqConfig`.
"""

from __future__ import annotations

from arrowquant._model.packed.codes import Codes, Group

_V1 = {None, "gptq"}
_V2 = {"gptq_v2"}


def read(group: Group) -> Codes | None:
    """The weights of a group, if it is one."""
    said = group.config.quantization or {}
    zeros, scales = group.ending(".qzeros"), group.ending(".scales")
    stem = group.weight.name.removesuffix(".qweight")
    if stem == group.weight.name or zeros is None or scales is None:
        return None
    bits, size = said.get("bits"), said.get("group_size")
    if not isinstance(bits, int) or not isinstance(size, int):
        return None
    sides = {"zeros": zeros, "scales": scales, "order": group.ending(".g_idx")}
    layer, method = f"{stem}.weight", group.config.quant_method
    numbers = {"bits": bits, "group_size": size}
    if method == "awq" and str(said.get("version", "gemm")).lower() == "gemm" and bits == 4:  # noqa: PLR2004
        return group.codes("awq", sides, layer=layer, numbers=numbers)
    form = said.get("checkpoint_format", said.get("format"))
    if method != "gptq" or form not in _V1 | _V2:
        return None
    numbers["zeros_less_one"] = int(form in _V1)
    return group.codes("gptq", sides, layer=layer, numbers=numbers)
