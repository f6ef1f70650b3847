"""FP8 weights, judged by the code that loads them: transformers and compressed-tensors. Needs
`pip install '.[runtimes]'`; skipped where that is not installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq

torch = pytest.importorskip("torch", reason="of the extra 'runtimes'")
transformers = pytest.importorskip("transformers", reason="of the extra 'runtimes'")
pytest.importorskip("accelerate", reason="of the extra 'runtimes'")
pytest.importorskip("compressed_tensors", reason="of the extra 'runtimes'")

from compressed_tensors.compressors import BaseCompressor  # noqa: E402
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

BLOCK = 128


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 in the layout of the published FP8 models: blocks of 128 by 128."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=256,
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    model = transformers.Qwen3ForCausalLM(config).to(torch.bfloat16)
    tensors = {}
    for name, weight in model.state_dict().items():
        if "proj" not in name:
            tensors[name] = weight.contiguous()
            continue
        rows, columns = weight.shape
        blocks = weight.float().reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        scales = blocks.abs().amax((1, 3)) / 448
        codes = (blocks / scales[:, None, :, None]).reshape(rows, columns)
        tensors[name] = codes.to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scales
    folder = tmp_path_factory.mktemp("qwen3")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = config.to_dict() | {
        "architectures": ["Qwen3ForCausalLM"],
        "quantization_config": {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "weight_block_size": [BLOCK, BLOCK],
        },
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def decoded(qwen3: Path) -> dict[str, Any]:
    """Every weight of it, as transformers decodes them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        qwen3,
        dtype=torch.bfloat16,
        quantization_config=transformers.FineGrainedFP8Config(dequantize=True),
    )
    return dict(model.state_dict())


def _bits(tensor: Any) -> Any:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_a_model_in_fp8_decodes_to_the_bits_of_transformers(
    qwen3: Path, decoded: dict[str, Any]
) -> None:
    kept = aq.quantize(aq.scan(qwen3), scheme="none")
    rows = pa.table(kept.quantized).to_pylist()
    assert sum(row["scheme"] == "fp8_e4m3" for row in rows) == 2 * 7
    ours = {row["layer_name"]: row for row in pa.table(aq.dequantize(kept)).to_pylist()}
    assert ours.keys() == decoded.keys()
    for name, weight in decoded.items():
        assert ours[name]["data"] == _bits(weight), name


def test_a_model_in_fp8_comes_out_as_int4(
    qwen3: Path, decoded: dict[str, Any], tmp_path: Path
) -> None:
    dataset = aq.quantize_checkpoint(qwen3, tmp_path / "int4", scheme="int4", group_size=32)
    quantized = {row["layer_name"]: row for row in pa.table(dataset).to_pylist()}
    back = {row["layer_name"]: row for row in pa.table(aq.dequantize(dataset)).to_pylist()}
    assert quantized.keys() == decoded.keys()
    projections = [name for name in decoded if "proj" in name]
    for name in projections:
        row = quantized[name]
        assert row["scheme"] == "int4", name
        weight = decoded[name].double().numpy()
        taken = torch.frombuffer(bytearray(back[name]["data"]), dtype=torch.bfloat16)
        error = taken.double().numpy().reshape(weight.shape) - weight
        # Both sides are rounded to BF16, which is 30 dB below the error of int4.
        assert 10 * np.log10(np.sum(weight**2) / np.sum(error**2)) == pytest.approx(
            row["snr_db"], abs=0.05
        )
    checked = aq.verify(dataset.path, against=qwen3)
    assert checked.ok, checked.problems


STRATEGIES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "row": ({"strategy": "channel"}, {"group_size": -1, "group_rows": 1}),
    "tensor": ({"strategy": "tensor"}, {"group_size": -1, "group_rows": -1}),
    "block": (
        {"strategy": "block", "block_structure": [BLOCK, BLOCK]},
        {"group_size": BLOCK, "group_rows": BLOCK},
    ),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_compressed_tensors_decodes_ours_to_the_bits_of_dequantize(strategy: str) -> None:
    args, settings = STRATEGIES[strategy]
    values = np.random.default_rng(1).standard_t(4, (384, 512)).astype(np.float32)
    result = aq.quantize({"w": values}, scheme="fp8_e4m3", **settings)  # type: ignore[arg-type]
    (row,) = pa.table(result.quantized).to_pylist()
    codes = torch.frombuffer(bytearray(row["data"]), dtype=torch.float8_e4m3fn)
    grid = {"row": (384, 1), "tensor": (1,), "block": (3, 4)}[strategy]
    scheme = QuantizationScheme(
        targets=["Linear"],
        format="float-quantized",
        weights=QuantizationArgs(num_bits=8, type="float", symmetric=True, **args),
    )
    compressor = BaseCompressor.get_value_from_registry("float-quantized")
    theirs = compressor.decompress(
        {
            "weight": codes.reshape(384, 512),
            "weight_scale": torch.tensor(row["scales"]).reshape(grid),
        },
        scheme,
    )["weight"]
    ours = aq.to_numpy(aq.dequantize(result))["w"]
    assert theirs.dtype == torch.float32
    assert np.array_equal(theirs.numpy(), ours)
