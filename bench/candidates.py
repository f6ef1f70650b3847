"""Fit the candidates that the searches for scales try: `python bench/candidates.py`.

Greedily, one after the other: each is the one of a grid that lessens the error most, beside those
chosen before it. Where there are few, each is then replaced as long as another is better. An error
is what the least-squares refit of a candidate's codes leaves, with all values as important and with
importances of a log-normal distribution. The weights are others than those that results are
reported on: normal, Laplace and Student-t of 4 and 8 degrees of freedom, and dithered layers of
SmolLM2 where `bench/models/smollm2` is there. It prints the kernels' lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import arrowquant as aq

_GROUPS = 4096
_CHOSEN = 7
"""Eight are tried at once, the usual one among them."""
_FEW = 4
"""So many are tried where levels next to the best one's are tried, too."""
_CUTS = 3
"""Each is two candidates, beside the usual ones."""
_SMOLLM2 = Path(__file__).parent / "models" / "smollm2"

_NF4 = [-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0]
_NF4 += [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]
_IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
_FP4 = [0, 0.0625 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12, 1]


def _weights(size: int) -> list[tuple[Any, Any]]:
    """Return weights with how much each matters."""
    rng = np.random.default_rng(2024)
    shape = (_GROUPS, size)
    found = [rng.standard_normal(shape), rng.laplace(size=shape)]
    found += [rng.standard_t(freedom, shape) for freedom in (4, 8)]
    if _SMOLLM2.is_dir():
        scan = aq.scan(_SMOLLM2)
        for name in ("1.mlp.up_proj", "14.self_attn.q_proj", "25.mlp.down_proj"):
            layer = np.asarray(scan[f"model.layers.{name}.weight"], dtype=np.float32).ravel()
            # Its weights lie on a grid of Q4_1, sixteen steps in each 32.
            cells = layer[: len(layer) // 32 * 32].reshape(-1, 32)
            step = (cells.max(1) - cells.min(1))[:, None] / 15
            dithered = (cells + step * (rng.random(cells.shape) - 0.5)).ravel()
            found.append(dithered[: _GROUPS * size].reshape(-1, size))
    arrays = [array.astype(np.float32) for array in found]
    alike = [(array, np.ones_like(array)) for array in arrays]
    return alike + [(array, rng.lognormal(size=array.shape).astype(np.float32)) for array in arrays]


def _left(values: Any, numbers: Any, matter: Any, *, offset: bool) -> Any:
    """Return what the best scale (and offset) for these numbers leaves of each group."""

    def mean(of: Any) -> Any:
        return (of * matter).sum(1, keepdims=True) / matter.sum(1, keepdims=True)

    if offset:
        values, numbers = values - mean(values), numbers - mean(numbers)
    cc, cv = (numbers**2 * matter).sum(1), (numbers * values * matter).sum(1)
    gain = np.divide(cv**2, cc, out=np.zeros_like(cc), where=cc > 0)
    return (values**2 * matter).sum(1) - gain


def _greedy(errors: dict[Any, list[Any]], usual: list[Any], wanted: int = _CHOSEN) -> list[Any]:
    best, chosen = usual, []
    total = [one.sum() for one in usual]
    for _ in range(wanted):

        def judged(candidate: Any, best: list[Any] = best) -> float:
            each = zip(best, errors[candidate], total, strict=True)
            return float(sum(np.minimum(old, new).sum() / all_ for old, new, all_ in each))

        chosen.append(min(errors, key=judged))
        best = [np.minimum(old, new) for old, new in zip(best, errors[chosen[-1]], strict=True)]
    _print_shares(best, total)
    return chosen


def _print_shares(left: list[Any], usual: list[Any]) -> None:
    shares = [f"{one.sum() / all_:.3f}" for one, all_ in zip(left, usual, strict=True)]
    print("   left of rounding's error:", " ".join(shares))


def _exchange(errors: dict[Any, list[Any]], usual: list[Any], first: list[Any]) -> list[Any]:
    """Return four candidates, the first ones among them: none is better replaced by another."""
    total = [one.sum() for one in usual]

    def left(chosen: list[Any]) -> list[Any]:
        each = zip(*(errors[candidate] for candidate in chosen), strict=True)
        return [np.minimum.reduce(arrays) for arrays in each]

    def judged(chosen: list[Any]) -> float:
        each = zip(left(chosen), total, strict=True)
        return float(sum(one.sum() / all_ for one, all_ in each))

    def replaced(chosen: list[Any], at: int) -> list[Any]:
        others = [[*chosen[:at], one, *chosen[at + 1 :]] for one in errors]
        return min([chosen, *others], key=judged)

    chosen = list(first)
    while len(chosen) < _FEW:
        chosen = min(([*chosen, one] for one in errors), key=judged)
    before: list[Any] = []
    while before != chosen:
        before = chosen
        for at in range(len(first), _FEW):
            chosen = replaced(chosen, at)
    _print_shares(left(chosen), total)
    return chosen


def _nearest(scaled: Any, table: Any) -> Any:
    middles = (table[1:] + table[:-1]) / 2
    return table[np.searchsorted(middles, scaled)].astype(np.float32)


def scales(
    what: str, size: int, table: list[float], usual: float, *, signed: bool, few: bool = False
) -> None:
    """Print reaches: by how much more than usual the outermost value is scaled up."""
    numbers = np.array(table, dtype=np.float32)
    reaches = [reach / 100 for reach in range(60, 300, 4)]
    reaches += [-reach for reach in reaches] if signed else []
    everything = _weights(size)
    outermost = [
        np.take_along_axis(array, np.abs(array).argmax(1)[:, None], 1) for array, _ in everything
    ]
    if not signed:
        outermost = [np.abs(one) for one in outermost]

    def errors(reach: float) -> list[Any]:
        each = zip(everything, outermost, strict=True)
        return [
            _left(array, _nearest(array * (usual * reach / one), numbers), matter, offset=False)
            for (array, matter), one in each
        ]

    print(what, size)
    each = {reach: errors(reach) for reach in reaches}
    print("  ", _exchange(each, each[1.0], [1.0]) if few else _greedy(each, each[1.0]))


def lines(what: str, size: int, top: int, *, few: bool = False) -> None:
    """Print lines: steps that are cut off, and the shift in steps."""
    everything = _weights(size)

    def errors(cut: float, beside: float) -> list[Any]:
        found = []
        for array, matter in everything:
            lo, hi = array.min(1, keepdims=True), array.max(1, keepdims=True)
            scale = (hi - lo) / (top + cut)
            codes = np.rint((array - lo) / scale - cut / 2 - beside).clip(0, top)
            found.append(_left(array, codes, matter, offset=True))
        return found

    cuts = [-0.8, -0.4, 0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.2, 2.6, 3.0, 3.6]
    if few:
        cuts = [-0.8, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 1.8, 2.2]
    grid = [(cut, beside / 10) for cut in cuts for beside in range(-5, 6)]
    print(what, size)
    each, usual = {line: errors(*line) for line in grid}, errors(0.0, 0.0)
    print("  ", _exchange(each, usual, []) if few else _greedy(each, usual))


def zero_points(what: str, top: int, sizes: tuple[int, ...]) -> None:
    """Print steps that are cut off, each with both integers next to the exact zero point."""
    everything = [pair for size in sizes for pair in _weights(size)]

    def errors(cut: float) -> list[Any]:
        found = []
        for array, matter in everything:
            ends = np.minimum(array.min(1, keepdims=True), 0), array.max(1, keepdims=True)
            scale = (np.maximum(ends[1], 0) - ends[0]) / (top + cut)
            exact = np.floor(-ends[0] / scale - cut / 2)
            both = []
            for zero in (exact.clip(0, top), (exact + 1).clip(0, top)):
                codes = np.rint(array / scale).clip(-zero, top - zero)
                both.append(_left(array, codes, matter, offset=False))
            found.append(np.minimum(*both))
        return found

    cuts = [step / 10 for step in range(-6, 44)]
    print(what, *sizes)
    print("  ", _greedy({cut: errors(cut) for cut in cuts}, errors(0.0), _CUTS))


def main() -> None:
    """Print the lists of every family."""
    for bits in (2, 4):
        half = 1 << (bits - 1)
        codes = [float(code) for code in range(-half, half)]
        for size in (64, 128):
            scales(f"int{bits} symmetric", size, codes, half - 0.5, signed=False)
            scales(f"int{bits} symmetric, signed scales", size, codes, -float(half), signed=True)
    for bits in (2, 4, 8):
        zero_points(f"int{bits} with a zero point", (1 << bits) - 1, (64, 128))
    whole = [float(code) for code in range(-8, 8)]
    scales("q4_0", 32, whole, -8.0, signed=True)
    for name, half in (("q3_k", 4), ("q6_k", 32)):
        codes = [float(code) for code in range(-half, half)]
        scales(name, 16, codes, -float(half), signed=True, few=True)
    scales("iq4", 32, [float(code) for code in _IQ4], -127.0, signed=True)
    scales("nf4", 64, _NF4, 1.0, signed=True)
    scales("bnb_fp4", 64, sorted({-x for x in _FP4} | set(_FP4)), 1.0, signed=False)
    for size in (32, 64):
        lines("lines of 15", size, 15)
    for size in (16, 64):
        lines("lines of 3", size, 3)
    lines("lines of 7", 64, 7)
    for name, size, top in (("q2_k", 16, 3), ("q4_k", 32, 15), ("q5_k", 32, 31)):
        lines(name, size, top, few=True)


if __name__ == "__main__":
    main()
