"""`config.json`, and the other files in which tools say what they made of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
_QUANTIZATION_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""ModelOpt's, and those of old versions of AutoGPTQ and AutoAWQ."""
_NESTED = ("text_config", "language_config", "llm_config", "thinker_config", "ffn_config")
_LARGEST = 64 << 20


@dataclass(frozen=True)
class Config:
    """What is said of a model beside its tensors; nothing where there is no such file."""

    values: dict[str, Any] = field(default_factory=dict)
    """`config.json`."""
    quantization: dict[str, Any] | None = None
    """How the model is quantized already."""
    is_adapter: bool = False

    @property
    def quant_method(self) -> str | None:
        """What the model is quantized with, by the name that its tool gives it."""
        return None if self.quantization is None else _method(self.quantization)

    @property
    def model_types(self) -> list[str]:
        """The architecture's name, and those of its nested models."""
        found = [level.get("model_type") for level in self._levels()]
        return [name for name in found if isinstance(name, str)]

    def number(self, *names: str) -> int | None:
        """The first of these keys that holds a number, at the top or in a nested model."""
        for level in self._levels():
            for name in names:
                value = level.get(name)
                if isinstance(value, int) and not isinstance(value, bool):
                    return value
        return None

    def text(self, *names: str) -> str | None:
        """The first of these keys that holds a text, likewise."""
        for level in self._levels():
            for name in names:
                value = level.get(name)
                if isinstance(value, str):
                    return value
        return None

    @property
    def is_tied(self) -> bool:
        """Whether the head is the table of embeddings."""
        said = [level.get("tie_word_embeddings") for level in self._levels()]
        return any(value is True for value in said)

    @property
    def says_tied(self) -> bool:
        """Whether anything is said of it: of some architectures it is the default."""
        return any("tie_word_embeddings" in level for level in self._levels())

    def _levels(self) -> Iterator[dict[str, Any]]:
        yield self.values
        for name in _NESTED:
            nested = self.values.get(name)
            if isinstance(nested, dict):
                yield nested
                deeper = nested.get("text_config")
                if isinstance(deeper, dict):
                    yield deeper


def read_config(folder: Path) -> Config:
    """What is said in a directory. A file that is damaged says nothing: the weights can be read."""
    values = _read(folder / CONFIG) or {}
    quantization = _section(values, "quantization_config") or _section(values, "compression_config")
    if quantization is None and (found := _section(values, "quantization")):
        quantization = {"quant_method": "mlx", **found}
    nested = values.get("text_config")
    if quantization is None and isinstance(nested, dict):
        quantization = _section(nested, "quantization_config")
    for name in _QUANTIZATION_FILES:
        if quantization is None:
            quantization = _read(folder / name)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    return Config(values, quantization, is_adapter)


def _method(said: dict[str, Any]) -> str:
    method = said.get("quant_method")
    if isinstance(method, str):
        return method.lower()
    if isinstance(said.get("producer"), dict):
        return str(said["producer"].get("name", "modelopt")).lower()
    if said.get("load_in_4bit") or said.get("load_in_8bit"):
        return "bitsandbytes"
    if "mode" in said or {"group_size", "bits"} == set(said):
        return "mlx"
    if "w_bit" in said:
        return "awq"
    return "gptq" if "bits" in said else "unknown"


def _section(values: dict[str, Any], name: str) -> dict[str, Any] | None:
    section = values.get(name)
    return section if isinstance(section, dict) and section else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _LARGEST:
            return None
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
