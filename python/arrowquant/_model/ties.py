"""Heads that are tied to the table of embeddings: which layers these are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def head_and_table(
    layers: Sequence[T], name: Callable[[T], str], role: Callable[[T], str | None]
) -> tuple[T, T] | None:
    """The output head and the table of the words' embeddings, where a model has one of each."""
    head = _one([x for x in layers if role(x) == "head"], name, ("lm_head.weight", "output.weight"))
    endings = (
        "shared.weight",
        "embed_tokens.weight",
        "wte.weight",
        "word_embeddings.weight",
        "token_embd.weight",
    )
    table = _one([x for x in layers if role(x) == "embedding"], name, endings)
    return None if head is None or table is None else (head, table)


def _one(found: list[T], name: Callable[[T], str], endings: tuple[str, ...]) -> T | None:
    for ending in endings:
        for x in found:
            if name(x).endswith(ending):
                return x
    return found[0] if len(found) == 1 else None
