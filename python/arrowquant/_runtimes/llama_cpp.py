"""llama.cpp's mixtures of types, as `llama-quantize` gives them to layers.

Source: `llama_tensor_get_type` in https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from arrowquant._runtimes.base import Asked, Row, Runtime, Way, block_of, gets_more, rule

_ALL = ("role:embedding", "role:head")
_VALUES = re.compile(r"\.attn_(v|qkv|kv_b)\.weight(\[|$)")
_KEYS = re.compile(r"\.attn_k\.weight(\[|$)")
_OUTPUT = re.compile(r"\.attn_output\.weight(\[|$)")
_DOWN = re.compile(r"\.ffn_down(_exps|_shexp)?\.weight(\[|$)")
_SMALL_GROUPS = 4
"""Queries for each key and value, from which Q2_K gives values more bits."""
_EIGHT = 8
_LARGE = (80, 8192)
"""Blocks and width of the models of 70 billion weights."""


class LlamaCpp(Runtime):
    """GGUF, with the mixtures Q4_K_M, Q3_K_M and Q2_K."""

    name = "llama.cpp"
    ways: ClassVar[Mapping[int, Way]] = {
        8: Way("q8_0", "gguf", include=_ALL),
        4: Way("q4_k", "gguf", include=_ALL),
        3: Way("q3_k", "gguf", include=_ALL),
        2: Way(
            "q2_k",
            "gguf",
            include=_ALL,
            warning="2 bits lose much of what a model knows. Look at the SNR, or take 3 bits.",
        ),
    }

    def rules(self, asked: Asked) -> list[Row]:
        """The layers that get other types than most."""
        if asked.bits not in _MIXTURES:
            return []
        model = _Model(asked)
        chosen: dict[str, list[Row]] = {}
        for row in asked.rows:
            scheme = _MIXTURES[asked.bits](row, model)
            if scheme is not None:
                chosen.setdefault(scheme, []).append(row)
        found = []
        for scheme, layers in chosen.items():
            planned = asked.plan(scheme, {})
            found += [rule(row, planned[row["layer_name"]]) for row in layers]
        return found


class _Model:
    """What mixtures look at."""

    def __init__(self, asked: Asked) -> None:
        metadata = asked.metadata
        kind = metadata.get("general.architecture", "")
        heads = _number(metadata.get(f"{kind}.attention.head_count"))
        shared = _number(metadata.get(f"{kind}.attention.head_count_kv"), heads)
        self.asked = asked
        self.blocks = asked.blocks
        self.queries = heads // max(shared, 1)
        self.experts = _number(metadata.get(f"{kind}.expert_count"), 0)
        self.is_large = (self.blocks, metadata.get(f"{kind}.embedding_length")) == _LARGE


def _number(said: Any, default: int = 1) -> int:
    """A number, or the largest of a list with one for each block."""
    if isinstance(said, list):
        said = max((x for x in said if isinstance(x, int)), default=default)
    return said if isinstance(said, int) else default


def _of_output(row: Row, model: _Model) -> str | None:
    """The head, or the table of embeddings that is one."""
    return "q6_k" if model.asked.is_output(row) else None


def _of_eight_experts(row: Row, model: _Model) -> str | None:
    name = row["layer_name"]
    if model.experts == _EIGHT and (_VALUES.search(name) or _KEYS.search(name)):
        return "q8_0"
    return "q5_k" if model.experts == _EIGHT and _OUTPUT.search(name) else None


def _q4_k_m(row: Row, model: _Model) -> str | None:
    name, block = row["layer_name"], block_of(row["layer_name"]) or 0
    found = _of_output(row, model) or _of_eight_experts(row, model)
    if found is not None:
        return found
    if _VALUES.search(name) or _DOWN.search(name):
        if gets_more(block, model.blocks):
            return "q6_k"
        return "q5_k" if model.is_large and _VALUES.search(name) else None
    return None


def _q3_k_m(row: Row, model: _Model) -> str | None:
    name, block = row["layer_name"], block_of(row["layer_name"]) or 0
    found = _of_output(row, model) or _of_eight_experts(row, model)
    if found is None and _VALUES.search(name):
        found = "q5_k" if block < 2 or model.is_large else "q4_k"  # noqa: PLR2004
    if found is None and _DOWN.search(name):
        found = "q5_k" if block < model.blocks // 16 else "q4_k"
    return "q4_k" if found is None and _OUTPUT.search(name) else found


def _q2_k(row: Row, model: _Model) -> str | None:
    name = row["layer_name"]
    found = _of_output(row, model) or _of_eight_experts(row, model)
    if found is None and _VALUES.search(name):
        found = "q4_k" if model.queries >= _SMALL_GROUPS else "q3_k"
    if found is None and (_DOWN.search(name) or _OUTPUT.search(name)):
        found = "q3_k"
    return found


_MIXTURES: dict[int, Callable[[Row, _Model], str | None]] = {4: _q4_k_m, 3: _q3_k_m, 2: _q2_k}
