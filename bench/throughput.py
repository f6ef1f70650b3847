"""Print how many bytes of weights a second are quantized, beside a copy of the same bytes.

    python bench/throughput.py

Runs alternate, and the ratio is the median of the pairs, since machines drift.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import arrowquant as aq

PAIRS = 7


def seconds(work: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure each scheme at one and two threads."""
    array = np.random.default_rng(0).standard_normal((4096, 14336), np.float32)
    target = np.empty_like(array)
    print("| scheme | symmetric | threads | GB/s of weights | of a copy's speed |")
    print("|---|---|---|---|---|")
    for scheme, symmetric, threads in (
        (scheme, symmetric, threads)
        for scheme in ("int8", "int4", "int2")
        for symmetric in (True, False)
        for threads in (1, 2)
    ):
        ours, copies = [], []
        for _ in range(PAIRS):
            copies.append(seconds(lambda: np.copyto(target, array)))
            options: dict[str, Any] = {"scheme": scheme, "symmetric": symmetric, "threads": threads}
            ours.append(seconds(lambda: aq.quantize({"w": array}, **options)))  # noqa: B023
        ratio = statistics.median(c / o for c, o in zip(copies, ours, strict=True))
        speed = array.nbytes / statistics.median(ours) / 1e9
        print(f"| {scheme} | {symmetric} | {threads} | {speed:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
