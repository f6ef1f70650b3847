"""Types of libraries that may be installed: whoever has an object of theirs has imported them."""

from __future__ import annotations

import sys
from typing import Any


def is_a(value: Any, module: str, *names: str) -> bool:
    """Whether it is an instance of one of these classes of a module, or of their subclasses.

    The module is not imported.
    """
    loaded = sys.modules.get(module)
    kinds = tuple(kind for name in names if isinstance(kind := getattr(loaded, name, None), type))
    return isinstance(value, kinds)
