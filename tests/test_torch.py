"""Torch modules, state dictionaries and tensors, read where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq

torch = pytest.importorskip("torch")


class Tied(torch.nn.Module):  # type: ignore[misc]
    """An embedding, a head that is the same matrix, a norm, and a buffer."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(50, 64, dtype=dtype)
        self.up = torch.nn.Linear(64, 96, bias=True, dtype=dtype)
        self.norm = torch.nn.LayerNorm(64, dtype=dtype)
        self.head = torch.nn.Linear(64, 50, bias=False, dtype=dtype)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.arange(4, dtype=dtype))


DTYPES = ["float32", "float16", "bfloat16", "float64"]


def _columns(result: aq.QuantizationResult) -> list[dict[str, Any]]:
    names = ["layer_name", "dtype", "shape", "data", "scales", "zero_points", "mse", "snr_db"]
    return sorted(
        result.quantized.select(names).to_pylist(), key=lambda row: str(row["layer_name"])
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_module_is_what_its_safetensors_file_is(tmp_path: Path, dtype: str) -> None:
    from safetensors.torch import save_model

    module = Tied(getattr(torch, dtype))
    save_model(module, tmp_path / "m.safetensors")
    ours, theirs = aq.quantize(module), aq.quantize(aq.scan(tmp_path / "m.safetensors"))
    # safetensors keeps one of two tied names, by its own choice.
    assert _untied(_columns(ours)) == _untied(_columns(theirs))


def _untied(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tied = {"embed.weight", "head.weight"}
    rows = [row | {"layer_name": "tied"} if row["layer_name"] in tied else row for row in rows]
    return sorted(rows, key=lambda row: str(row["layer_name"]))


def test_tied_weights_come_once_with_the_others_names() -> None:
    rows = {r["layer_name"]: r for r in aq.quantize(Tied(torch.float32)).quantized.to_pylist()}
    names = ["steps", "embed.weight", "up.weight", "up.bias", "norm.weight", "norm.bias"]
    assert list(rows) == names
    assert rows["embed.weight"]["tied_names"] == ["head.weight"]
    assert rows["up.weight"]["tied_names"] is None
    untied = torch.nn.Linear(32, 4)
    assert "tied_names" not in aq.quantize(untied).quantized.schema.names


def test_a_state_dict_has_a_row_for_each_key() -> None:
    state = Tied(torch.bfloat16).state_dict()
    result = aq.quantize(state, scheme="int8")
    assert result.quantized["layer_name"].to_pylist() == list(state)
    assert set(result.quantized["dtype"].to_pylist()) == {"BF16"}


@pytest.mark.parametrize("dtype", [*DTYPES, "int64", "uint8", "bool", "float8_e4m3fn", "complex64"])
def test_every_dtype_is_kept_bit_for_bit(dtype: str) -> None:
    tensor = torch.arange(64).reshape(2, 32).to(getattr(torch, dtype))
    (row,) = aq.quantize({"w": tensor}, scheme="none").quantized.to_pylist()
    assert row["data"] == tensor.view(torch.uint8).numpy().tobytes()
    assert row["shape"] == [2, 32]


def test_no_copy_is_made() -> None:
    from arrowquant._inputs import as_table, mapping_to_table

    tensor = torch.nn.Parameter(torch.randn(64, 64, dtype=torch.bfloat16))
    (chunk,) = as_table(mapping_to_table({"w": tensor}))["data"].chunks
    assert chunk.buffers()[2].address == tensor.data_ptr()


BAD = {
    "meta": (torch.empty(4, 32, device="meta"), "unsupported_dtype", "Load the weights first"),
    "sparse": (torch.eye(32).to_sparse(), "unsupported_dtype", ".to_dense()"),
    "transposed": (torch.randn(32, 4).T, "not_contiguous", ".contiguous()"),
    "strided": (torch.randn(4, 64)[:, ::2], "not_contiguous", ".contiguous()"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_says_what_to_do(kind: str) -> None:
    tensor, code, remedy = BAD[kind]
    with pytest.raises(aq.QuantizationError, match=code) as caught:
        aq.quantize({"w": tensor})
    assert remedy in str(caught.value)
    result = aq.quantize({"good": torch.randn(4, 32), "w": tensor}, continue_on_error=True)
    assert result.failed["error_code"].to_pylist() == [code]
    assert result.succeeded["layer_name"].to_pylist() == ["good"]


def test_a_tensor_on_a_gpu_says_cpu() -> None:
    """Without a GPU: a tensor that says it is on one."""

    class OnGpu(torch.Tensor):  # type: ignore[misc]
        device = torch.device("cuda", 0)

    tensor = torch.randn(4, 32).as_subclass(OnGpu)
    with pytest.raises(aq.QuantizationError, match=r"device 'cuda:0'.*\.cpu\(\)"):
        aq.quantize({"w": tensor})


def test_a_tensor_without_memory_of_its_own() -> None:
    """Such as tracing makes, whose data pointer is null."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(4, 32)
    result = aq.quantize({"w": fake, "good": torch.randn(4, 32)}, continue_on_error=True)
    assert result.succeeded["layer_name"].to_pylist() == ["good"]
    assert result.failed["error_code"].to_pylist() == ["unsupported_dtype"]


def test_empty_and_scalar_tensors() -> None:
    result = aq.quantize({"s": torch.tensor(2.0), "e": torch.empty(0, 4)}, continue_on_error=True)
    assert result.succeeded["layer_name"].to_pylist() == ["s"]
    assert result.failed["error_code"].to_pylist() == ["empty"]


def test_the_dictionary_api_takes_tensors() -> None:
    tensor = torch.randn(4, 128)
    ours = aq.ArrowQuantV2("diffusion").quantize_batch({"w": tensor})["w"]
    theirs = aq.ArrowQuantV2().quantize_batch({"w": tensor.numpy()})["w"]
    assert ours["quantized_data"] == theirs["quantized_data"]
    assert np.array_equal(ours["scales"], theirs["scales"])


def test_plan_and_write_take_modules(tmp_path: Path) -> None:
    module = Tied(torch.bfloat16)
    plan = aq.plan(module)
    assert plan["layer_name"].to_pylist()[1] == "embed.weight"
    aq.write_safetensors(module, tmp_path / "m.safetensors")
    assert pa.table(aq.scan(tmp_path / "m.safetensors")).num_rows == 6


def test_the_conversion_of_a_torch_file_works(tmp_path: Path) -> None:
    import re
    import subprocess
    import sys

    path = tmp_path / "m.pt"
    weights = {"a": torch.randn(4, 32), "b": torch.randn(32, 4).T}
    torch.save(weights, path)
    with pytest.raises(ValueError, match="is a torch file") as caught:
        aq.scan(path)
    (code,) = re.findall(r'python -c "(.*)"$', str(caught.value))
    subprocess.run([sys.executable, "-c", code], check=True)
    assert aq.scan(tmp_path / "m.safetensors").layers == 2
