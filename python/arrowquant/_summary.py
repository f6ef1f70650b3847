"""What became of a checkpoint's layers, for people and machines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS: tuple[str, ...] = ("layer_name", "shape", "scheme", "search", "bits_per_weight", "mse")
COLUMNS += ("max_abs_error", "snr_db", "scale_spread")
MEANING_COLUMNS = ("role", "keep_reason")
PART_COLUMNS = ("part_index", "part_count", "part_offset", "layer_shape", "source_file")
_WORST = 5
WIDE = 200
"""From this scale spread on a layer is named: of MiniLM's none has it, whatever the scheme."""


@dataclass
class Summary:
    """What became of a checkpoint's layers. Sizes are bytes."""

    output: Path
    layers: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    source_bytes: int = 0
    file_bytes: int = 0
    seconds: float = 0.0
    finished_before: int = 0
    """Layers that an earlier run had finished."""
    unfinished: int = 0
    """Layers that no run has come to yet."""
    fallbacks: dict[str, str] = field(default_factory=dict)
    """The scheme that layers fell back from, since their shape did not fit."""

    @property
    def quantized(self) -> list[dict[str, Any]]:
        """The layers that were quantized."""
        return [layer for layer in self.layers if not _is_kept(layer)]

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The layers that were kept as they are."""
        return [layer for layer in self.layers if _is_kept(layer)]

    @property
    def kept_by_role(self) -> dict[str, int]:
        """Bytes of the kept layers by what keeps them, the most first.

        That is a role, or why they were not to be quantized. Layers without either are not counted.
        """
        sizes: dict[str, int] = {}
        for layer in self.kept:
            what = _kept_as(layer)
            if what is not None and layer["bits_per_weight"] is not None:
                size = math.ceil(layer["bits_per_weight"] * _count(layer) / 8)
                sizes[what] = sizes.get(what, 0) + size
        return dict(sorted(sizes.items(), key=lambda item: -item[1]))

    @property
    def fell_back(self) -> tuple[list[str], float]:
        """Which schemes layers fell back from and to, and their share of the quantized weights."""
        layers = [layer for layer in self.quantized if layer["layer_name"] in self.fallbacks]
        ways = {f"{self.fallbacks[x['layer_name']]} to {x['scheme']}": None for x in layers}
        total = sum(map(_count, self.quantized))
        return list(ways), sum(map(_count, layers)) / total if total else 0.0

    @property
    def weights(self) -> int:
        """How many weights the good layers have."""
        return sum(map(_count, self.layers))

    @property
    def output_bytes(self) -> int:
        """Codes, scales and zero points, and the kept layers' bytes."""
        sized = (layer for layer in self.layers if layer["bits_per_weight"] is not None)
        bits: float = sum(layer["bits_per_weight"] * _count(layer) for layer in sized)
        return math.ceil(bits / 8)

    @property
    def bits_per_weight(self) -> float | None:
        """Over all good layers."""
        return 8 * self.output_bytes / self.weights if self.weights else None

    @property
    def worst(self) -> list[dict[str, Any]]:
        """The layers with the lowest SNR."""
        lossy = [layer for layer in self.layers if layer["snr_db"] is not None]
        return sorted(lossy, key=lambda layer: layer["snr_db"])[:_WORST]

    @property
    def outlying(self) -> list[dict[str, Any]]:
        """The layers whose largest scale is far from the others, the farthest first."""
        return outlying(self.layers)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "output": str(self.output),
            "quantized": len(self.quantized),
            "kept": len(self.kept),
            "failed": len(self.failed),
            "kept_bytes": self.kept_by_role,
            "fell_back": {"from_to": self.fell_back[0], "share": self.fell_back[1]},
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "file_bytes": self.file_bytes,
            "weights": self.weights,
            "bits_per_weight": self.bits_per_weight,
            "seconds": self.seconds,
            "finished_before": self.finished_before,
            "unfinished": self.unfinished,
            "lowest_snr": [
                {key: layer[key] for key in ("layer_name", "scheme", "bits_per_weight", "snr_db")}
                for layer in self.worst
            ],
            "widest_scales": [
                {key: layer[key] for key in ("layer_name", "scheme", "snr_db", "scale_spread")}
                for layer in self.outlying
            ],
            "failures": self.failed,
        }


def _is_kept(layer: dict[str, Any]) -> bool:
    """Whether it came out as it was: as numbers, or as the codes that it had."""
    return bool(layer["scheme"] == "none" or layer["search"] == "kept")


def outlying(layers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers whose largest scale is `WIDE` times the median one or more, the farthest first.

    One value far beyond all others takes the scale of its group, whose other values are lost, and
    hides that in an excellent SNR.
    """
    found = [layer for layer in layers if (layer["scale_spread"] or 0) >= WIDE]
    return sorted(found, key=lambda layer: -layer["scale_spread"])


def _kept_as(layer: dict[str, Any]) -> str | None:
    """What keeps a layer: that it is quantized already, that its axis is not known, or its role."""
    if layer["search"] == "kept":
        return f"already_quantized ({layer['scheme']})"
    reason: str | None = layer.get("keep_reason")
    if reason is not None:  # Without its details.
        return re.split(r"[:)]", reason)[0] + (")" if "(" in reason else "")
    role: str | None = layer.get("role")
    return role


def _count(layer: dict[str, Any]) -> int:
    """A layer's elements; a kept one of a dtype that nobody knows may have no shape."""
    return 0 if layer["shape"] is None else math.prod(layer["shape"])


def layers_of(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the quantized relation with each layer's parts put together.

    Errors are those of the whole layer: squares are summed, and the signal is what the parts' SNR
    says.
    """
    layers: list[dict[str, Any]] = []
    parts: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for row in rows:
        if (row.get("part_count") or 1) == 1:
            layers.append(row)
        else:
            key = (row["source_file"], row["layer_name"])
            if key not in parts:
                layers.append(row)
            parts.setdefault(key, []).append(row)
    for layer in layers:
        found = parts.get((layer.get("source_file"), layer["layer_name"]))
        if found and found[0] is layer:
            layer.update(_joined(found))
    return layers


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    counts = [_count(part) for part in parts]
    whole = {"shape": parts[0]["layer_shape"], "parts": len(parts)}
    for name in ("bits_per_weight", "mse"):
        values = [part[name] for part in parts]
        sums = [
            value * count for value, count in zip(values, counts, strict=True) if value is not None
        ]
        whole[name] = sum(sums) / sum(counts) if len(sums) == len(parts) else None
    largest = [part["max_abs_error"] for part in parts]
    whole["max_abs_error"] = None if None in largest else max(largest)
    spread = [part["scale_spread"] for part in parts if part["scale_spread"] is not None]
    whole["scale_spread"] = max(spread, default=None)
    noise = [part["mse"] * count for part, count in zip(parts, counts, strict=True)]
    # An exact part does not tell its signal, and without it the layer's SNR is not known.
    is_known = all(part["snr_db"] is not None for part in parts)
    whole["snr_db"] = None
    if is_known and sum(noise) > 0:
        signal = sum(n * 10 ** (part["snr_db"] / 10) for n, part in zip(noise, parts, strict=True))
        whole["snr_db"] = 10 * math.log10(signal / sum(noise))
    return whole
