"""What MLX, bitsandbytes, compressed-tensors, torchao and ONNX Runtime decode from our bytes.

These libraries take gigabytes; CI runs this file in a step of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

import arrowquant as aq
from test_groups import MLX
from test_schemes import KINDS


def quantized(source: Any, scheme: str, **settings: Any) -> tuple[dict[str, Any], Any]:
    """The one row, and what it decodes to; scales are those of the extremes."""
    result = aq.quantize({"w": source}, scheme=scheme, **({"search": "none"} | settings)).quantized
    (row,) = pa.table(result).to_pylist()
    return row, aq.to_numpy(aq.dequantize(result, dtype="F32"))["w"]


def sources(checkpoint: Path) -> dict[str, Any]:
    """Matrices of all kinds, real ones among them."""
    real = load_file(checkpoint)
    names = ("encoder.layer.0.attention.self.query.weight", "encoder.layer.3.output.dense.weight")
    return KINDS | {name: real[name] for name in names}


def grid(row: dict[str, Any], name: str, source: Any) -> Any:
    return np.asarray(row[name], np.float32).reshape(len(source), -1)


@pytest.mark.parametrize("search", ["none", "mse"])
@pytest.mark.parametrize(("bits", "size"), MLX)
def test_mlx_decodes_its_integers(bits: int, size: int, search: str, checkpoint: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    for source in sources(checkpoint).values():
        if source.shape[1] % size:
            continue
        row, decoded = quantized(source, f"mlx{bits}", group_size=size, search=search)
        words = np.frombuffer(row["data"], np.uint32).reshape(len(source), -1)
        scales, biases = (mx.array(grid(row, name, source)) for name in ("scales", "biases"))
        found = mx.dequantize(mx.array(words), scales, biases, group_size=size, bits=bits)
        assert np.array_equal(np.array(found), decoded)


@pytest.mark.parametrize(("scheme", "size"), [("mxfp4", 32), ("mxfp8", 32), ("nvfp4", 16)])
def test_mlx_decodes_its_floats(scheme: str, size: int, checkpoint: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    kind = ml_dtypes.float8_e4m3fn if scheme == "nvfp4" else ml_dtypes.float8_e8m0fnu
    for source in sources(checkpoint).values():
        row, decoded = quantized(source, scheme)
        words = np.frombuffer(row["data"], np.uint32).reshape(len(source), -1)
        scales = grid(row, "scales", source).astype(kind).view(np.uint8)
        bits = 8 if scheme == "mxfp8" else 4
        found = mx.dequantize(
            mx.array(words),
            mx.array(scales),
            group_size=size,
            bits=bits,
            mode=scheme,
            dtype=mx.float32,
        )
        # MLX has no scale of the tensor; ours is a power of two.
        assert np.array_equal(np.array(found) * np.float32(row["tensor_scale"] or 1), decoded)


@pytest.mark.parametrize("search", ["none", "mse"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_decodes_its_blocks(kind: str, search: str, checkpoint: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    torch = pytest.importorskip("torch")
    ragged = np.random.default_rng(0).normal(size=(7, 96)).astype(np.float32)
    for source in (*sources(checkpoint).values(), ragged):
        row, decoded = quantized(source, "nf4" if kind == "nf4" else "bnb_fp4", search=search)
        # As one row: with AVX-512, bitsandbytes 0.50 mistakes blocks that go on in the next one.
        state = functional.QuantState(
            absmax=torch.tensor(row["scales"]),
            shape=torch.Size([source.size]),
            code=functional.get_4bit_type(kind, device="cpu"),
            blocksize=64,
            quant_type=kind,
            dtype=torch.float32,
        )
        codes = torch.from_numpy(np.frombuffer(row["data"], np.uint8).copy()).reshape(-1, 1)
        found = functional.dequantize_4bit(codes, state).numpy()
        assert np.array_equal(found.reshape(source.shape), decoded)


@pytest.mark.parametrize("search", ["none", "mse"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_onnx_runtime_multiplies_by_bitsandbytes_blocks(kind: str, search: str) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    source = KINDS["heavy"]
    row, decoded = quantized(source, "nf4" if kind == "nf4" else "bnb_fp4", search=search)
    rows, columns = source.shape
    node = onnx.helper.make_node(
        "MatMulBnb4",
        ["a", "b", "absmax"],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        block_size=64,
        quant_type=int(kind == "nf4"),
    )
    initial = [
        onnx.numpy_helper.from_array(np.frombuffer(row["data"], np.uint8), "b"),
        onnx.numpy_helper.from_array(np.asarray(row["scales"], np.float32), "absmax"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [value("a", onnx.TensorProto.FLOAT, [columns, columns])],
        [value("y", onnx.TensorProto.FLOAT, [columns, rows])],
        initial,
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"a": np.eye(columns, dtype=np.float32)})
    assert np.array_equal(found.T, decoded)


def fp4_values(row: dict[str, Any], source: Any) -> Any:
    """Codes as compressed-tensors takes them apart."""
    torch = pytest.importorskip("torch")
    helpers = pytest.importorskip("compressed_tensors.compressors.nvfp4.helpers")
    packed = np.frombuffer(row["data"], np.uint8).reshape(len(source), -1).copy()
    values = helpers.unpack_fp4_from_uint8(
        torch.from_numpy(packed), *source.shape, dtype=torch.float32
    )
    return values, torch


@pytest.mark.parametrize(("scheme", "size"), [("mxfp4", 32), ("nvfp4", 16)])
def test_compressed_tensors_decodes_fp4(scheme: str, size: int, checkpoint: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    for source in sources(checkpoint).values():
        row, decoded = quantized(source, scheme)
        values, torch = fp4_values(row, source)
        scale = torch.from_numpy(grid(row, "scales", source))
        strategy = "tensor_group" if scheme == "nvfp4" else "group"
        args = QuantizationArgs(num_bits=4, type="float", strategy=strategy, group_size=size)
        # It stores what scales are divided by.
        divisor = 1 / torch.tensor([row["tensor_scale"]]) if scheme == "nvfp4" else None
        found = dequantize(
            x_q=values, scale=scale, args=args, dtype=torch.float32, global_scale=divisor
        )
        assert np.array_equal(found.numpy(), decoded)


def test_torchao_decodes_nvfp4(checkpoint: Path) -> None:
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    for source in sources(checkpoint).values():
        row, decoded = quantized(source, "nvfp4")
        packed = np.frombuffer(row["data"], np.uint8).reshape(len(source), -1).copy()
        scale = torch.from_numpy(grid(row, "scales", source)).to(torch.float8_e4m3fn)
        tensor = module.NVFP4Tensor(
            torch.from_numpy(packed),
            scale,
            16,
            torch.float32,
            per_tensor_scale=torch.tensor(row["tensor_scale"]),
        )
        assert np.array_equal(tensor.dequantize(torch.float32).numpy(), decoded)


@pytest.mark.parametrize("scheme", ["mxfp4", "mxfp8"])
def test_torchao_decodes_mx(scheme: str, checkpoint: Path) -> None:
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    for source in sources(checkpoint).values():
        row, decoded = quantized(source, scheme)
        raw = np.frombuffer(row["data"], np.uint8).reshape(len(source), -1).copy()
        codes = torch.from_numpy(raw)
        exponents = grid(row, "scales", source).astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
        scale = torch.from_numpy(exponents).view(torch.float8_e8m0fnu)
        kind = torch.float4_e2m1fn_x2 if scheme == "mxfp4" else torch.float8_e4m3fn
        codes = codes if scheme == "mxfp4" else codes.view(torch.float8_e4m3fn)
        found = module.to_dtype(codes, scale, kind, 32, torch.float32)
        assert np.array_equal(found.numpy(), decoded)
