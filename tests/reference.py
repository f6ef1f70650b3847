"""The affine schemes int8, int4 and int2 in NumPy: the oracle that the kernels are tested against.

Written from the specification alone, for clarity before speed. The way of the data: bytes -> exact
float64 values -> float32 groups -> a `_Grid` for every group -> codes -> packed rows; then the
codes are decoded again and compared with the exact values. A product that the specification wants
in float32 has two float32 operands here, so that NumPy rounds it exactly once.
"""

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Bytes = NDArray[np.uint8]

FLT_MAX = float(np.finfo(np.float32).max)

# What an mse and an snr_db may be off at most: the 32 roundings of docs/format.md.
MSE_RELATIVE = 32 * 2.0**-24
SNR_DB = 10 * math.log10((1 + MSE_RELATIVE) / (1 - MSE_RELATIVE))

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


@dataclass(frozen=True)
class _Format:
    """A binary floating-point format that scales can have."""

    bits: int
    precision: int  # of the significand, with the hidden bit
    min_exponent: int  # 2**min_exponent is the smallest subnormal
    largest: float

    def nearest(self, values: Float64s) -> Float64s:
        """Round to nearest even, to infinity beyond the range.

        Done on the float64 values themselves: a cast by way of float32 would round twice.
        """
        rounded = self._round(values, np.rint)
        return np.where(rounded > self.largest, np.inf, rounded)

    def below(self, values: Float64s) -> Float64s:
        """Round positive values down: the largest of this format that is not above each."""
        return np.minimum(self._round(values, np.floor), self.largest)

    def _round(self, values: Float64s, rule: np.ufunc) -> Float64s:
        """Round to whole units in the last place; powers of two scale exactly in float64."""
        unit = np.maximum(np.frexp(values)[1] - self.precision, self.min_exponent)
        rounded: Float64s = np.ldexp(rule(np.ldexp(values, -unit)), unit)
        return rounded


FORMATS = {
    "F32": _Format(32, 24, -149, FLT_MAX),
    "F16": _Format(16, 11, -24, 65504.0),
    "BF16": _Format(16, 8, -133, float.fromhex("0x1.fep127")),
}


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized layer and what its decoding differs by from the exact source."""

    data: bytes
    scales: Float32s  # [rows, groups of a row], row-major, flat
    zero_points: Bytes | None  # likewise; None if symmetric
    scale_dtype: str
    group_size: int
    bits_per_weight: float
    decoded: Float32s  # flat
    mse: float
    max_abs_error: float
    snr_db: float | None


@dataclass(frozen=True, eq=False)
class _Grid:
    """How each group is coded. All arrays are columns [groups, 1], to broadcast over elements."""

    scale: Float32s
    zero: Float32s  # the code of zero, a whole number
    factor: Float32s  # what weights are multiplied by before `inverse`
    inverse: Float32s


def to_float(data: bytes, dtype: str) -> Float64s:
    """The exact values of little-endian bytes; each supported dtype fits in float64."""
    return np.frombuffer(data, DTYPES[dtype]).astype(np.float64)


def quantize(
    data: bytes,
    dtype: str,
    shape: list[int],
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: str = "source",
) -> Quantized:
    """Quantize a layer whose values are finite as float32; `group_size` -1 is a whole row."""
    if bits not in (2, 4, 8) or (group_size != -1 and group_size < 1):
        raise ValueError(f"no such layout: bits={bits}, group_size={group_size}")
    source = to_float(data, dtype)
    rows, cols = _matrix_shape(shape)
    if source.size != rows * cols or source.size == 0:
        raise ValueError(f"{source.size} elements for shape {shape}")
    size = cols if group_size == -1 else min(group_size, cols)
    if scale_dtype == "source":
        scale_dtype = dtype if dtype in ("F16", "BF16") else "F32"

    weights = _split(source.astype(np.float32).reshape(rows, cols), size)
    scale_dtype, grid = _choose_grid(weights, bits, symmetric, scale_dtype)
    codes = _encode(weights, grid, bits)
    packed = _pack(_join(codes, rows, cols), bits)
    decoded = _join((codes - grid.zero) * grid.scale, rows, cols).reshape(-1)

    stored_bits = 8 * len(packed) + grid.scale.size * FORMATS[scale_dtype].bits
    if not symmetric:
        stored_bits += grid.zero.size * bits
    return Quantized(
        packed,
        grid.scale.reshape(-1),
        None if symmetric else grid.zero.reshape(-1).astype(np.uint8),
        scale_dtype,
        size,
        stored_bits / source.size,
        decoded,
        *_measure(source, decoded),
    )


def unpack(data: bytes, bits: int, rows: int, cols: int) -> Bytes:
    """The codes [rows, cols] of packed data."""
    packed = np.frombuffer(data, np.uint8).reshape(rows, -1)
    flags = np.unpackbits(packed, axis=1, bitorder="little")[:, : cols * bits]
    return np.packbits(flags.reshape(rows, cols, bits), axis=2, bitorder="little")[:, :, 0]


def _pack(codes: Float32s, bits: int) -> bytes:
    """Codes least-significant-bit first, each row padded with zero bits to whole 4-byte words."""
    rows = codes.shape[0]
    octets = codes.astype(np.uint8)[:, :, np.newaxis]
    flags = np.unpackbits(octets, axis=2, bitorder="little")[:, :, :bits].reshape(rows, -1)
    padded = np.pad(flags, ((0, 0), (0, -flags.shape[1] % 32)))
    return np.packbits(padded, axis=1, bitorder="little").tobytes()


def _matrix_shape(shape: list[int]) -> tuple[int, int]:
    """Rows run along the last dimension; a scalar is one row of one."""
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def _split(matrix: Float32s, size: int) -> Float32s:
    """[rows, cols] -> [groups, size]. Zeros fill short groups: every range holds zero anyway."""
    padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % size)))
    return padded.reshape(-1, size)


def _join(groups: Float32s, rows: int, cols: int) -> Float32s:
    """[groups, size] -> [rows, cols], without what filled the short groups."""
    return groups.reshape(rows, -1)[:, :cols]


def _choose_grid(
    weights: Float32s, bits: int, symmetric: bool, scale_dtype: str
) -> tuple[str, _Grid]:
    """The grid of each group, and the format of the scales that was possible."""
    low = np.minimum(weights.min(axis=1, keepdims=True), np.float32(0))
    high = np.maximum(weights.max(axis=1, keepdims=True), np.float32(0))
    exact = _exact_scale(low.astype(np.float64), high.astype(np.float64), bits, symmetric)
    if np.isinf(FORMATS[scale_dtype].nearest(exact)).any():
        scale_dtype = "F32"  # for the whole layer, which has one scale_dtype
    scale_format = FORMATS[scale_dtype]
    scale = np.maximum(scale_format.nearest(exact), 2.0**scale_format.min_exponent)

    if symmetric:
        zero = np.full_like(low, 2 ** (bits - 1))
        furthest = zero
    else:
        factor, inverse = _inverse(scale)
        top = np.float32(2**bits - 1)
        zero = np.clip(np.rint(-low * factor * inverse), np.float32(0), top)
        furthest = np.maximum(zero, top - zero)
    # The zero point stays as it was chosen with the uncapped scale.
    scale = _cap(scale, furthest, scale_format)
    return scale_dtype, _Grid(scale.astype(np.float32), zero, *_inverse(scale))


def _exact_scale(low: Float64s, high: Float64s, bits: int, symmetric: bool) -> Float64s:
    """The scale in float64, before it is rounded to its format; 1 for a group of zeros."""
    if symmetric:
        scale = np.maximum(-low, high) / (2 ** (bits - 1) - 0.5)
    else:
        scale = (high - low) / (2**bits - 1)
    return np.where(scale == 0, 1.0, scale)


def _inverse(scale: Float64s) -> tuple[Float32s, Float32s]:
    """The power of two that weights are multiplied by first, and 1/scale to match it.

    The power keeps the inverse away from float32's subnormals and from infinity.
    """
    with np.errstate(over="ignore"):  # infinity is one of the inverses that are replaced
        plain = (1 / scale).astype(np.float32)
    factor = np.ones_like(scale)
    factor[plain < 2.0**-100] = 2.0**-64
    factor[plain > 2.0**100] = 2.0**64
    return factor.astype(np.float32), (1 / (scale * factor)).astype(np.float32)


def _cap(scale: Float64s, furthest: Float32s, scale_format: _Format) -> Float64s:
    """Lower the scales by which the code furthest from zero would decode to infinity."""
    with np.errstate(over="ignore"):
        overflows = np.isinf(furthest * scale.astype(np.float32))
    return np.where(overflows, scale_format.below(FLT_MAX / furthest.astype(np.float64)), scale)


def _encode(weights: Float32s, grid: _Grid, bits: int) -> Float32s:
    """The codes, as whole float32 numbers."""
    codes: Float32s = np.rint(weights * grid.factor * grid.inverse) + grid.zero
    return codes.clip(np.float32(0), np.float32(2**bits - 1))


def _measure(source: Float64s, decoded: Float32s) -> tuple[float, float, float | None]:
    """Mean squared error, largest error and signal-to-noise ratio (None without noise)."""
    errors = source - decoded
    signal = math.fsum(np.square(source).tolist())
    noise = math.fsum(np.square(errors).tolist())
    # A difference of logarithms, since the quotient of two float64 sums could overflow.
    snr_db = 10 * (math.log10(signal) - math.log10(noise)) if noise else None
    return noise / source.size, float(np.abs(errors).max()), snr_db
