"""Write golden data made by compressed-tensors itself: python make_golden.py OUTDIR

OUTDIR/compressed_tensors.json holds two kinds of cases:
  pack      int8 codes and the int32 words pack_to_int32 makes of them
  quantize  float32 weights, and the scale, the codes and the words made of them (symmetric)
Floats are hex strings of row-major little-endian float32 bytes, so nothing is lost in text.
"""

import json
import sys
from pathlib import Path

import compressed_tensors
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams

PACK_BITS = (2, 4, 8)
PACK_SHAPES = ((1, 1), (3, 8), (4, 7), (5, 33), (2, 100))
QUANT_BITS = (4, 8)
QUANT_SHAPES = ((4, 64), (3, 96), (2, 128))
GROUP_SIZE = 32


def f32_hex(tensor):
    assert tensor.dtype == torch.float32
    return tensor.contiguous().numpy().astype("<f4").tobytes().hex()


def pack_case(bits, shape, seed):
    """Uniform codes over the whole signed range, packed along the columns."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(low, high + 1, shape, generator=generator).to(torch.int8)
    packed = pack_to_int32(q, bits)
    return {
        "kind": "pack",
        "seed": seed,
        "bits": bits,
        "shape": list(shape),
        "q": q.tolist(),
        "packed_shape": list(packed.shape),
        "packed": packed.tolist(),
    }


def quantize_case(bits, shape, group_size, seed):
    """Symmetric quantization per group of columns, or per row if group_size is None."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator, dtype=torch.float32)

    strategy = "channel" if group_size is None else "group"
    args = QuantizationArgs(
        num_bits=bits, type="int", symmetric=True, strategy=strategy, group_size=group_size
    )
    # The extremes of each group; scale and zero point come out as [rows, groups].
    groups = weight.unflatten(-1, (-1, group_size or shape[-1]))
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    assert not zero_point.any()  # symmetric

    q = quantize(weight, scale, zero_point, args, dtype=torch.int8)
    packed = pack_to_int32(q, bits)
    return {
        "kind": "quantize",
        "seed": seed,
        "bits": bits,
        "shape": list(shape),
        "strategy": strategy,
        "group_size": group_size,
        "weight_f32_hex": f32_hex(weight),
        "scale_shape": list(scale.shape),
        "scale_f32_hex": f32_hex(scale),
        "q": q.tolist(),
        "packed_shape": list(packed.shape),
        "packed": packed.tolist(),
    }


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python make_golden.py OUTDIR")
    cases = []
    for bits in PACK_BITS:
        for shape in PACK_SHAPES:
            cases.append(pack_case(bits, shape, seed=len(cases)))
    for bits in QUANT_BITS:
        for shape in QUANT_SHAPES:
            for group_size in (GROUP_SIZE, None):
                cases.append(quantize_case(bits, shape, group_size, seed=len(cases)))

    versions = {"compressed_tensors": compressed_tensors.__version__, "torch": torch.__version__}
    # One case per line: small, and a changed case shows as one changed line.
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    text = f'{{"versions":{json.dumps(versions)},\n"cases":[\n{lines}\n]}}\n'
    path = Path(sys.argv[1]) / "compressed_tensors.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(cases)} cases, {len(text)} bytes")


if __name__ == "__main__":
    main()
