"""Weights that other tools have quantized, beside what these tools decode: see `data/foreign`."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import arrowquant as aq
from conftest import run

DATA = Path(__file__).parent / "data" / "foreign"
SCHEMES = {
    "awq": "int4",
    "bnb_fp4": "bnb_fp4",
    "bnb_int8": "int8",
    "bnb_nf4": "nf4",
    "ct_fp8": "fp8_e4m3",
    "ct_int4": "int4",
    "ct_int8": "int8",
    "ct_mxfp4": "mxfp4",
    "ct_mxfp8": "mxfp8",
    "ct_nvfp4": "nvfp4",
    "gpt_oss": "mxfp4",
    "gptq_int4": "int4",
    "gptq_int8": "int8",
    "gptq_v2": "int4",
    "mlx_mxfp4": "mxfp4",
    "mlx_mxfp8": "mxfp8",
    "mlx_nvfp4": "nvfp4",
    "modelopt": "nvfp4",
}
ROUNDED = {"ct_nvfp4", "modelopt_nvfp4", "bnb_int8"}
"""Their tools round once more in float32: the last place may differ, bfloat16 numbers do not."""
DECODED = {"ct_int4_g_idx", "ct_int4_asym_g_idx", "gptq_int4_act_order"}
"""Columns in an order that no scheme of ours has."""
NAMES = sorted(path.name for path in DATA.iterdir() if path.is_dir())


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / name / "values.json").read_text())
    return found


def checkpoint(name: str, folder: Path) -> Path:
    """A copy without the values, as the tool left it."""
    return Path(
        shutil.copytree(DATA / name, folder / name, ignore=shutil.ignore_patterns("values*"))
    )


def scheme_of(name: str) -> str | None:
    if name.startswith(("mlx_affine", "mlx_mixed")):
        return None  # Of several widths.
    found = [scheme for prefix, scheme in SCHEMES.items() if name.startswith(prefix)]
    assert len(found) == 1, name
    return found[0]


def values(relation: Any) -> dict[str, Any]:
    """The float32 numbers of each layer, parts and stacks put together."""
    parts: dict[str, list[Any]] = {}
    for row in pa.table(relation).to_pylist():
        kind = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}[row["dtype"]]
        numbers = np.frombuffer(row["data"], kind).astype(np.float32)
        parts.setdefault(row["layer_name"], []).append(numbers.reshape(row["shape"]))
    whole = {name: np.concatenate(part) for name, part in parts.items()}
    stacks: dict[str, list[Any]] = {}
    for name in [name for name in whole if name.endswith("]")]:
        stacks.setdefault(name.rpartition("[")[0], []).append(whole.pop(name).T)
    return whole | {name: np.stack(matrices) for name, matrices in stacks.items()}


def digest(numbers: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()


@pytest.mark.parametrize("part_bytes", [1 << 28, 16 * 256 * 4])
@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_tools_own(name: str, part_bytes: int, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    kept = aq.quantize(aq.scan(folder, part_bytes=part_bytes), scheme="none")
    found = values(aq.dequantize(kept, dtype="F32"))
    wanted = expected(name)
    assert found.keys() == wanted.keys()
    rows = pa.table(kept.quantized).to_pylist()
    packed = 0
    for layer, told in wanted.items():
        numbers = found[layer] + np.float32(0)
        assert list(numbers.shape) == told["shape"]
        assert digest(numbers.astype(ml_dtypes.bfloat16)) == told["bfloat16"]
        schemes = {row["scheme"] for row in rows if row["layer_name"].split("[")[0] == layer}
        reasons = {row["keep_reason"] for row in rows if row["layer_name"].split("[")[0] == layer}
        (scheme,), (reason,) = schemes, reasons
        if scheme != "none":
            packed += 1
            assert scheme == (scheme_of(name) or scheme)
            assert reason is None
        if name not in ROUNDED and (scheme != "none" or name not in DECODED):
            assert digest(numbers) == told["float32"]
    assert packed or name in DECODED
    decoded = {row["keep_reason"] for row in rows if (row["keep_reason"] or "").startswith("dec")}
    assert bool(decoded) == (name in DECODED)


@pytest.mark.parametrize("name", NAMES)
def test_a_job_keeps_them_and_quantizes_them_where_asked(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    kept = aq.quantize_checkpoint(folder, tmp_path / "kept", part_bytes=16 * 256 * 4)
    assert aq.verify(tmp_path / "kept", folder).problems.to_pylist() == []
    schemes = {row["layer_name"]: row["scheme"] for row in pa.table(kept).to_pylist()}
    if name not in DECODED:
        assert not {"int4"} & (set(schemes.values()) - {scheme_of(name)})
    aq.quantize_checkpoint(folder, tmp_path / "int2", scheme="int2")
    assert aq.verify(tmp_path / "int2", folder).problems.to_pylist() == []
    again = pa.table(aq.scan(tmp_path / "int2")).to_pylist()
    weights = {row["layer_name"] for row in again if row["role"] == "weight"}
    assert weights
    assert {row["scheme"] for row in again if row["role"] == "weight"} == {"int2"}
    # Against what was decoded.
    decoded = values(aq.dequantize(aq.quantize(aq.scan(folder), scheme="none"), dtype="F32"))
    for row in again:
        if row["scheme"] == "int2" and "[" not in row["layer_name"]:
            direct = aq.quantize(
                {"w": decoded[row["layer_name"]]}, scheme="int2", scale_dtype=row["scale_dtype"]
            )
            assert pa.table(direct.quantized)["data"][0].as_py() == row["data"]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in DECODED])
def test_the_same_scheme_copies_the_bytes(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    first = pa.table(aq.quantize(aq.scan(folder), scheme="none").quantized)
    for row in first.to_pylist():
        if row["scheme"] == "none" or row["role"] != "weight":
            continue
        settings = {n: row[n] for n in ("group_size", "group_rows") if row[n] is not None}
        if row["is_symmetric"] is not None:
            settings["symmetric"] = row["is_symmetric"]
        if row["scale_dtype"] in {"F32", "F16", "BF16"} and not row["scheme"].endswith("f4"):
            settings["scale_dtype"] = row["scale_dtype"]
        if row["scheme"] == "bnb_fp4":
            settings.pop("scale_dtype", None)
        again = aq.quantize(aq.scan(folder), scheme=row["scheme"], **settings)
        same = [
            one
            for one in pa.table(again.quantized).to_pylist()
            if one["layer_name"] == row["layer_name"]
        ]
        columns = ("data", "scales", "zero_points", "biases", "tensor_scale", "search", "mse")
        assert [{n: one[n] for n in columns} for one in same] == [{n: row[n] for n in columns}]
        assert row["search"] == "kept"


@pytest.mark.parametrize(
    "name", ["ct_int4_asym_g32", "gptq_int4", "bnb_nf4_double", "mlx_affine_4_g64"]
)
def test_parts_of_a_layer_may_be_in_other_shards(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    expected_values = values(
        aq.dequantize(aq.quantize(aq.scan(folder), scheme="none"), dtype="F32")
    )
    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    names = sorted(header.keys() - {"__metadata__"})
    for number in range(2):
        chosen, data = {}, b""
        for one in names[number::2]:
            start, end = header[one]["data_offsets"]
            blob = raw[8 + size + start : 8 + size + end]
            chosen[one] = header[one] | {"data_offsets": [len(data), len(data) + len(blob)]}
            data += blob
        text = json.dumps(chosen).encode()
        text += b" " * (-len(text) % 8)
        path = folder / f"model-0000{number + 1}-of-00002.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "model.safetensors").unlink()
    found = values(aq.dequantize(aq.quantize(aq.scan(folder), scheme="none"), dtype="F32"))
    assert found.keys() == expected_values.keys()
    assert all(np.array_equal(found[one], expected_values[one]) for one in found)
    job = aq.quantize_checkpoint(folder, tmp_path / "d", scheme="int8")
    assert job.failed.num_rows == 0
    assert aq.verify(tmp_path / "d", folder).ok


def test_what_contradicts_itself_is_kept_and_says_why(tmp_path: Path) -> None:
    folder = checkpoint("ct_int4_g128", tmp_path)
    module = "model.layers.0.self_attn.q_proj"
    words = ("weight_packed", "weight_shape")
    with safe_open(folder / "model.safetensors", "np") as file:
        tensors = {n: file.get_tensor(n) for n in file.keys() if n.endswith(words)}  # noqa: SIM118
    tensors[f"{module}.weight_scale"] = np.ones((32, 3), np.float32)
    tensors["model.layers.0.mlp.down_proj.weight_scale"] = np.ones((64, 1), np.float32)
    save_file(tensors, folder / "model.safetensors")
    plan = {row["layer_name"]: row for row in aq.plan(folder).to_pylist()}
    reason = plan[f"{module}.weight_packed"]["reason"]
    assert reason == "already_quantized (compressed-tensors: 3 groups don't fit rows of 256)"
    assert plan[f"{module}.weight_scale"]["role"] == "companion"
    # One bad layer does not cost the others.
    assert plan["model.layers.0.mlp.down_proj.weight"]["reason"] == "already_quantized (int4)"
    aq.quantize_checkpoint(folder, tmp_path / "d")
    assert aq.verify(tmp_path / "d", folder).ok


def test_the_plan_says_what_is_decoded(tmp_path: Path) -> None:
    folder = checkpoint("gptq_int4_act_order", tmp_path)
    text = run("plan", folder).stdout
    assert "already_quantized (int4)" in text
    assert "decoded (gptq)" in text
    assert "--scheme NAME decodes and quantizes them again." in text
    text = run("plan", folder, "--scheme", "int2").stdout
    assert "decoded from int4" in text
    assert "3 layers to quantize" in text or "2 layers to quantize" in text
    run("quantize", folder, "-o", tmp_path / "d", "--scheme", "int2", "--quiet")
    exported = aq.export(tmp_path / "d", tmp_path / "e", to="safetensors")
    assert "quantization_config" not in json.loads((exported / "config.json").read_text())
    assert sorted(aq.scan(exported).layer_names) == sorted(expected("gptq_int4_act_order"))
