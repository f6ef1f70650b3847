"""Reading and writing the JSON files beside a checkpoint's weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from arrowquant._errors import QuantizationWarning
from arrowquant._files import replacing


def read_json(path: Path) -> dict[str, Any]:
    """What a file says; nothing where there is none.

    Raises:
        ValueError: It is no JSON object.

    Warns:
        QuantizationWarning: There is no such file.
    """
    if not path.exists():
        message = (
            f"there is no {path.name} beside the source: one with quantization_config alone is "
            "written. Name the directory that has it with source=... (--source)."
        )
        warnings.warn(QuantizationWarning(message), stacklevel=6)
        return {}
    try:
        said = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"the source's {path.name} is no JSON object: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"the source's {path.name} is no JSON object, but {type(said).__name__}.")
    return said


def write_json(path: Path, said: dict[str, Any]) -> None:
    """Write a file whole."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(said, indent=2) + "\n", "utf-8")
