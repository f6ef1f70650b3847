"""Whether cost grows linearly: with the bytes of a layer, and not with the number of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from measure import Figure, side_by_side

import arrowquant as aq

COLUMNS = 4096


def run(*, quick: bool) -> list[Figure]:
    """Return nanoseconds a byte for each size, and seconds for each number of layers."""
    rounds = 3 if quick else 9
    largest = np.random.default_rng(0).standard_normal((16 * 8192, COLUMNS), np.float32)
    sizes = [1, 4] if quick else [1, 4, 16]
    parts = [largest[: factor * 8192] for factor in sizes]

    def layer(array: Any) -> Callable[[], Any]:
        return lambda: aq.quantize({"w": array}, search="none", threads=2)

    times = side_by_side([layer(part) for part in parts], rounds)
    figures: list[Figure] = [
        {"what": "bytes", "mb": part.nbytes / 1e6, "ns_per_byte": 1e9 * time / part.nbytes}
        for part, time in zip(parts, times, strict=True)
    ]
    flat = largest.reshape(-1)[: 100_000 * 1024]
    counts = [10, 1000] if quick else [10, 1000, 100_000]

    def layers(count: int) -> Callable[[], Any]:
        named = {f"layer.{i}": part for i, part in enumerate(np.split(flat, count))}
        table = aq.quantize(named, scheme="none").quantized.select(
            ["layer_name", "dtype", "shape", "data"]
        )
        return lambda: aq.quantize(table, search="none", threads=2)

    times = side_by_side([layers(count) for count in counts], rounds)
    return figures + [
        {"what": "layers", "layers": count, "mb": flat.nbytes / 1e6, "seconds": time}
        for count, time in zip(counts, times, strict=True)
    ]
