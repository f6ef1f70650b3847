"""The names that Hugging Face's and llama.cpp's files have for the same layers.

Source: `TensorNameMap` of the package gguf.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from arrowquant._importance.imatrix import needed

_BLOCK = re.compile(r"^blk\.\d+\.")
_NUMBER = re.compile(r"\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_SUFFIX = ".weight"


def are_of_gguf(names: Sequence[str]) -> bool:
    """Whether they are llama.cpp's."""
    return any(_BLOCK.match(name) for name in names)


def to_gguf(names: Sequence[str], architectures: Sequence[str]) -> dict[str, str]:
    """llama.cpp's names of Hugging Face's, where it has any.

    Args:
        names: Of layers.
        architectures: What the model may be called, by either; the first that is known counts, and
            without one, whichever knows most of the names.

    Raises:
        ImportError: The package gguf is not installed.
    """
    gguf = needed("gguf", "finding llama.cpp's names of layers")
    numbers = [int(at[1]) for name in names if (at := _NUMBER.search(name))]
    blocks = max(numbers, default=0) + 1
    known = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    asked = [known[name] for name in architectures if name in known]
    kinds = asked[:1] or list(known.values())
    return max((_named(gguf, kind, blocks, names) for kind in kinds), key=len)


def _named(gguf: Any, kind: Any, blocks: int, names: Sequence[str]) -> dict[str, str]:
    table = gguf.get_tensor_name_map(kind, blocks)
    found = {}
    for name in names:
        expert = _EXPERT.search(name)
        plain = _EXPERT.sub(".experts.", name) if expert else name
        theirs = table.get_name(plain, (_SUFFIX,))
        if theirs is not None:
            found[name] = f"{theirs}[{expert[1]}]" if expert else theirs
    return found
