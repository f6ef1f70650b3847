"""Which search a scheme should have by default: each compared with rounding, on three models.

Rounding and searching are compared on the same text, chunk by chunk and sentence by sentence, so
that their ratio is known better than either. No importance is told. Below 1 the search is better.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import divergence
import embeddings
import numpy as np
from measure import Figure

import arrowquant as aq

_INTEGERS: list[tuple[str, str, dict[str, Any]]] = [
    (f"{name}{kind}", name, {"symmetric": bool(kind), "group_size": size})
    for name, size in (("int8", 128), ("int4", 128), ("int2", 64))
    for kind in ("", " symmetric")
]
_OTHERS = (
    "mlx8 mlx6 mlx5 mlx4 mlx3 mlx2 nf4 bnb_fp4 nvfp4 mxfp4 mxfp8 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl "
    "q6_k q5_k q4_k iq4_xs q3_k q2_k"
)
_CASES = [*_INTEGERS, *((name, name, {}) for name in _OTHERS.split())]
_SEARCHES = ("mse", "weighted")
_SIGNED: list[tuple[str, str, dict[str, Any]]] = [
    (f"{name} symmetric, groups of {size}", name, {"symmetric": True, "group_size": size})
    for name, sizes in (("int8", (32, 128)), ("int4", (32, 128)), ("int2", (64,)))
    for size in sizes
]
_Errors = Callable[[Any, Any, dict[str, Any]], Any]


def run(folder: Path, *, quick: bool) -> list[Figure]:
    """Return the error of each search over that of rounding, with 95 % intervals."""
    figures: dict[str, Figure] = {what: {"scheme": what} for what, _, _ in _CASES}
    for model, errors in _models(folder, quick=quick):
        for what, scheme, options in _CASES:
            try:
                usual = errors(scheme, "none", options)
                for search in _SEARCHES:
                    ratio = _ratio(errors(scheme, search, options), usual)
                    figures[what][f"{model}, {search}"] = ratio
            except aq.QuantizationError as error:
                print(f"{model}, {what}: {error}", file=sys.stderr)
            print(figures[what], file=sys.stderr)
    return list(figures.values())


def signed_scales(folder: Path, *, quick: bool) -> list[Figure]:
    """Return the error with scales that may be negative over that with positive ones."""
    figures: dict[str, Figure] = {what: {"scheme": what} for what, _, _ in _SIGNED}
    for model, errors in _models(folder, quick=quick):
        for what, scheme, options in _SIGNED:
            for search in ("none", *_SEARCHES):
                positive = errors(scheme, search, options)
                found = errors(scheme, search, {**options, "signed_scales": True})
                figures[what][f"{model}, {search}"] = _ratio(found, positive)
            print(figures[what], file=sys.stderr)
    return list(figures.values())


def _models(folder: Path, *, quick: bool) -> Iterator[tuple[str, _Errors]]:
    """Each model, and a function of its errors by piece of text."""
    for name in divergence.MODELS if importlib.util.find_spec("torch") else ():
        where = divergence.made(folder, name)
        judge = divergence.Judge(where, 4 if quick else 16, on_grid=name == "smollm2")

        def of_chunks(scheme: Any, search: Any, options: dict[str, Any], judge: Any = judge) -> Any:
            found = aq.quantize(judge.weights, scheme=scheme, search=search, **options)
            return judge.of_chunks(aq.to_numpy(aq.dequantize(found)))

        yield name, of_chunks
    minilm = embeddings.MiniLM.installed(64 if quick else 128)
    if minilm is not None:
        yield (
            "MiniLM",
            lambda scheme, search, options: minilm.distances(
                minilm.embedded(minilm.quantized(scheme, search, **options))
            ),
        )


def _ratio(errors: Any, usual: Any) -> str:
    """The ratio of the means, with its interval over the pieces of text that both had."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(usual), (1000, len(usual)))
    low, high = np.percentile(errors[drawn].mean(1) / usual[drawn].mean(1), [2.5, 97.5])
    return f"{errors.mean() / usual.mean():.2f} [{low:.2f}, {high:.2f}]"
