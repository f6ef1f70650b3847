"""Layers that runtimes put together into one matrix, with one scale for all of it.

Source: vLLM's `packed_modules_mapping` of its model classes, and what mlx-lm and TensorRT-LLM fuse.
"""

from __future__ import annotations

TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("query", "key", "value"),
    ("attn_q", "attn_k", "attn_v"),
    ("ffn_gate", "ffn_up"),
    ("ffn_gate_exps", "ffn_up_exps"),
)
_SET_OF = {name: names for names in TOGETHER for name in names}


def fused_key(layer: str) -> str:
    """What layers that are put together have in common; a layer alone has its own name."""
    parts = layer.split(".")
    for at in range(len(parts) - 1, -1, -1):
        name, _, index = parts[at].partition("[")
        names = _SET_OF.get(name)
        if names is not None:
            rest = f"[{index}" if index else ""
            return ".".join([*parts[:at], "+".join(names) + rest, *parts[at + 1 :]])
    return layer
