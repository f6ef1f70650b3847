"""Other libraries that pip installs, on 4096x4096 float32 with one thread, each beside ours.

A peer that is not installed is left out. What they compute differs: none reports an error.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from measure import Figure, side_by_side

import arrowquant as aq

ROWS = COLUMNS = 4096
Work = Callable[[], Any]


def _numpy(array: Any) -> Iterator[tuple[str, str, int | None, Work]]:
    def int4() -> Any:
        groups = array.reshape(-1, 128)
        low = np.minimum(groups.min(axis=1, keepdims=True), 0)
        high = np.maximum(groups.max(axis=1, keepdims=True), 0)
        scale = (high - low) / 15
        zero = np.rint(-low / scale)
        codes = np.clip(np.rint(groups / scale) + zero, 0, 15).astype(np.uint8)
        return codes[:, ::2] | codes[:, 1::2] << 4, scale, zero

    yield "numpy", "int4", 128, int4


def _torch(array: Any) -> Iterator[tuple[str, str, int | None, Work]]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    tensor = torch.from_numpy(array)
    ops = torch.ops.quantized
    yield "torch byte_prepack", "int8", -1, lambda: ops.embedding_bag_byte_prepack(tensor)
    yield "torch 4bit_prepack", "int4", -1, lambda: ops.embedding_bag_4bit_prepack(tensor)

    def int4(weights: Any) -> Any:
        groups = weights.reshape(-1, 128)
        low = groups.amin(1, keepdim=True).clamp(max=0)
        high = groups.amax(1, keepdim=True).clamp(min=0)
        scale = (high - low) / 15
        zero = torch.round(-low / scale)
        codes = torch.clamp(torch.round(groups / scale) + zero, 0, 15).to(torch.uint8)
        return codes[:, ::2] | codes[:, 1::2] << 4, scale, zero

    compiled = torch.compile(int4, dynamic=False)
    yield "torch.compile", "int4", 128, lambda: compiled(tensor)


def _bitsandbytes(array: Any) -> Iterator[tuple[str, str, int | None, Work]]:
    torch = importlib.import_module("torch")
    functional = importlib.import_module("bitsandbytes.functional")
    torch.set_num_threads(1)
    tensor = torch.from_numpy(array)
    yield "bitsandbytes", "int8", 128, lambda: functional.quantize_blockwise(tensor, blocksize=128)
    for kind, scheme in (("nf4", "nf4"), ("fp4", "bnb_fp4")):

        def four_bits(kind: str = kind) -> Any:
            return functional.quantize_4bit(tensor, blocksize=64, quant_type=kind)

        yield f"bitsandbytes {kind}", scheme, None, four_bits


def _mlx(array: Any) -> Iterator[tuple[str, str, int | None, Work]]:
    mx = importlib.import_module("mlx.core")
    mx.set_default_device(mx.cpu)
    weights = mx.array(array)
    for bits in (2, 3, 4, 5, 6, 8):

        def affine(bits: int = bits) -> Any:
            return mx.eval(mx.quantize(weights, group_size=64, bits=bits))

        yield f"mlx {bits} bits", f"mlx{bits}", 64, affine
    for mode in ("mxfp4", "mxfp8", "nvfp4"):

        def floats(mode: str = mode) -> Any:
            return mx.eval(mx.quantize(weights, mode=mode))

        yield f"mlx {mode}", mode, None, floats


def _onnxruntime(array: Any) -> Iterator[tuple[str, str, int | None, Work]]:
    state = importlib.import_module("onnxruntime.capi._pybind_state")
    blocks = ROWS // 128
    packed = np.zeros((COLUMNS, blocks, 64), np.uint8)
    scales = np.zeros(COLUMNS * blocks, np.float32)
    zeros = np.zeros(COLUMNS * ((blocks + 1) // 2), np.uint8)

    def int4() -> None:
        state.quantize_matmul_4bits(packed, array, scales, zeros, 128, COLUMNS, ROWS, False)

    yield "onnxruntime", "int4", 128, int4


def _gguf(array: Any) -> Iterator[tuple[str, str, int | None, Work]]:
    gguf = importlib.import_module("gguf")
    kinds = gguf.GGMLQuantizationType
    for kind in (kinds.Q8_0, kinds.Q5_1, kinds.Q5_0, kinds.Q4_1, kinds.Q4_0, kinds.MXFP4):

        def blocks(kind: Any = kind) -> Any:
            return gguf.quants.quantize(array, kind)

        yield f"gguf {kind.name}", kind.name.lower(), None, blocks


GGML = {
    "q8_0": 8,
    "q6_k": 14,
    "q5_k": 13,
    "q5_1": 7,
    "q5_0": 6,
    "q4_k": 12,
    "q4_1": 3,
    "q4_0": 2,
    "iq4_nl": 20,
    "iq4_xs": 23,
    "q3_k": 11,
    "q2_k": 10,
}
"""The numbers of its types, of `enum ggml_type`."""


def _ggml(array: Any) -> Iterator[tuple[str, str, int | None, Work]]:
    """What llama-quantize runs, in C; it searches the scales of most types."""
    quantize = ggml()
    out = np.empty(array.nbytes, np.uint8)
    for scheme, kind in GGML.items():

        def blocks(kind: int = kind) -> None:
            written = quantize(kind, array.ctypes.data, out.ctypes.data, 0, ROWS, COLUMNS, None)
            if not written:
                raise RuntimeError(f"ggml wrote nothing for type {kind}")

        yield f"ggml {scheme}", scheme, None, blocks


def ggml() -> Any:
    """ggml's `ggml_quantize_chunk`.

    Raises:
        ImportError: The package that has it is not installed.
    """
    spec = importlib.util.find_spec("ik_llama_cpp")
    if spec is None or spec.origin is None:
        raise ImportError("ik_llama_cpp has no libggml")
    library = ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libggml.so"))
    quantize = library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3]
    quantize.argtypes += [ctypes.c_void_p]
    return quantize


PEERS = {
    "numpy": _numpy,
    "torch": _torch,
    "bitsandbytes": _bitsandbytes,
    "mlx": _mlx,
    "onnxruntime": _onnxruntime,
    "gguf": _gguf,
    "ik_llama_cpp": _ggml,
}


def installed(
    tools: Mapping[str, Callable[[Any], Iterator[Any]]], array: Any
) -> Iterator[tuple[str, list[Any]]]:
    """The cases of each package that is installed."""
    for package, cases in tools.items():
        try:
            importlib.import_module(package)
            found = list(cases(array))
        except ImportError as error:
            print(f"{package} is left out: {error}", file=sys.stderr)
            continue
        yield package, found


def run(*, quick: bool) -> list[Figure]:
    """Return a figure for each peer that is installed."""
    array = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)
    figures = []
    distributions = importlib.metadata.packages_distributions()
    for package, found in installed(PEERS, array):
        for name, scheme, group_size, theirs in found:

            def ours(scheme: Any = scheme, group_size: int | None = group_size) -> Any:
                return aq.quantize(
                    {"w": array},
                    scheme=scheme,
                    search="none",
                    group_size=group_size,
                    threads=1,
                )

            own, other = side_by_side([ours, theirs], 3 if quick else 9)
            figures.append(
                {
                    "peer": name,
                    "version": importlib.metadata.version(distributions[package][0]),
                    "scheme": scheme,
                    "group_size": group_size,
                    "gb_per_s": array.nbytes / own / 1e9,
                    "peer_gb_per_s": array.nbytes / other / 1e9,
                    "times_as_fast": other / own,
                }
            )
    return figures
