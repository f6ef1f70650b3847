"""What a lower error costs: time a weight, and decibels below what a format can do.

Normal weights, one thread, all in one run: rounding and searches of arrowquant, and other tools
where they are installed. Each tool's own decoder says what it left.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import peers
from measure import Figure, side_by_side

import arrowquant as aq

_ROWS, _COLUMNS = 1024, 4096
_Case = tuple[str, str, Callable[[], Any], Callable[[Any], Any]]
"""A tool, a format, what is timed, and what decodes that."""

POSSIBLE = {
    "int4 symmetric g128": 19.9,
    "affine 4 bits g64": 21.9,
    "affine 2 bits g64": 9.9,
    "nf4": 21.7,
    "nvfp4": 21.8,
    "mxfp4": 19.05,
    "iq4_nl": 22.7,
    "iq4_xs": 22.7,
    "q4_k": 23.2,
    "q3_k": 16.9,
    "q2_k": 11.8,
}
"""SNR in dB that is possible on normal weights: exact or nearly exact optima."""

_SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "int4 symmetric g128": (
        "int4",
        {"symmetric": True, "group_size": 128, "scale_dtype": "F16"},
    ),
    "affine 4 bits g64": ("mlx4", {"scale_dtype": "F16"}),
    "affine 2 bits g64": ("mlx2", {"scale_dtype": "F16"}),
}
_SCHEMES |= {name: (name, {}) for name in POSSIBLE if " " not in name}


def _ours(array: Any) -> Iterator[_Case]:
    for what, (scheme, options) in _SCHEMES.items():
        for search in ("none", "mse"):

            def work(scheme: Any = scheme, search: Any = search, options: Any = options) -> Any:
                return aq.quantize({"a": array}, scheme=scheme, search=search, threads=1, **options)

            yield f"arrowquant, {search}", what, work, lambda r: aq.to_numpy(aq.dequantize(r))["a"]


def _ggml(array: Any) -> Iterator[_Case]:
    gguf = importlib.import_module("gguf")
    quantize = peers.ggml()
    out = np.empty(array.nbytes, np.uint8)
    for scheme in ("iq4_nl", "iq4_xs", "q4_k", "q3_k", "q2_k"):
        kind = peers.GGML[scheme]
        _, size = gguf.GGML_QUANT_SIZES[kind]
        length = array.size // gguf.GGML_QUANT_SIZES[kind][0] * size

        def work(kind: int = kind, length: int = length) -> Any:
            quantize(kind, array.ctypes.data, out.ctypes.data, 0, *array.shape, None)
            return out[:length].reshape(len(array), -1)

        def decode(data: Any, kind: int = kind) -> Any:
            return gguf.quants.dequantize(data, gguf.GGMLQuantizationType(kind))

        yield "ggml", scheme, work, decode


def _bitsandbytes(array: Any) -> Iterator[_Case]:
    torch, functional = map(importlib.import_module, ("torch", "bitsandbytes.functional"))
    tensor = torch.from_numpy(array)
    yield (
        "bitsandbytes",
        "nf4",
        lambda: functional.quantize_4bit(tensor, blocksize=64, quant_type="nf4"),
        lambda found: functional.dequantize_4bit(*found).numpy(),
    )


def _mlx(array: Any) -> Iterator[_Case]:
    mx = importlib.import_module("mlx.core")
    mx.set_default_device(mx.cpu)
    weights = mx.array(array)
    forms: list[tuple[str, dict[str, Any]]] = [
        (f"affine {bits} bits g64", {"group_size": 64, "bits": bits}) for bits in (4, 2)
    ]
    forms += [(mode, {"mode": mode}) for mode in ("nvfp4", "mxfp4")]
    for what, options in forms:

        def work(options: Any = options) -> Any:
            found = mx.quantize(weights, **options)
            mx.eval(found)
            return found

        def decode(found: Any, options: Any = options) -> Any:
            return np.array(mx.dequantize(*found, **options).astype(mx.float32))

        yield "MLX", what, work, decode


def _torchao(array: Any) -> Iterator[_Case]:
    torch = importlib.import_module("torch")
    primitives = importlib.import_module("torchao.quantization.quant_primitives")
    tensor, block = torch.from_numpy(array), (1, 128)
    integers = (torch.int8, -8, 7)

    def work() -> Any:
        mapping = primitives.MappingType.SYMMETRIC
        scale, zero = primitives.choose_qparams_affine(tensor, mapping, block, *integers)
        codes = primitives.quantize_affine(tensor, block, scale, zero, *integers)
        return codes, scale, zero

    def decode(found: Any) -> Any:
        return primitives.dequantize_affine(found[0], block, *found[1:], *integers).numpy()

    yield "torchao", "int4 symmetric g128", work, decode


def _hqq(array: Any) -> Iterator[_Case]:
    torch, hqq = map(importlib.import_module, ("torch", "hqq.core.quantize"))
    tensor = torch.from_numpy(array)
    for bits in (4, 2):

        def work(bits: int = bits) -> Any:
            return hqq.Quantizer.quantize(
                tensor,
                nbits=bits,
                group_size=64,
                axis=1,
                compute_dtype=torch.float32,
                device="cpu",
            )

        def decode(found: Any) -> Any:
            return hqq.Quantizer.dequantize(*found).float().numpy()

        yield "HQQ", f"affine {bits} bits g64", work, decode


_TOOLS = {
    "ik_llama_cpp": _ggml,
    "bitsandbytes": _bitsandbytes,
    "mlx": _mlx,
    "torchao": _torchao,
    "hqq": _hqq,
}


def run(*, quick: bool) -> list[Figure]:
    """Return time and error of each tool and format, by format."""
    array = np.random.default_rng(1).standard_normal((_ROWS, _COLUMNS), np.float32)
    cases = list(_ours(array))
    for _, found in peers.installed(_TOOLS, array):
        cases += found
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    figures: list[Figure] = []
    for what, possible in POSSIBLE.items():
        own = [case for case in cases if case[1] == what]
        times = side_by_side([work for _, _, work, _ in own], 1 if quick else 3)
        for (tool, _, work, decode), time in zip(own, times, strict=True):
            noise = np.square(np.asarray(decode(work()), np.float64) - array).sum()
            snr = 10 * np.log10(np.square(array, dtype=np.float64).sum() / noise)
            figures.append(
                {
                    "format": what,
                    "tool": tool,
                    "ns_a_weight": time / array.size * 1e9,
                    "snr_db": round(float(snr), 2),
                    "db_below_possible": round(possible - float(snr), 2),
                }
            )
    return figures
