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


NAME = "model.layers.0.self_attn.q_proj"
GOOD = "model.layers.0.mlp.up_proj.weight"


def broken(
    folder: Path, tensors: dict[str, Any], said: dict[str, Any] | None = None, key: str = ""
) -> Path:
    """A checkpoint of one quantized layer and a good one that is none."""
    folder.mkdir(exist_ok=True)
    good = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    save_file(tensors | {GOOD: good}, folder / "model.safetensors")
    config = {"model_type": "llama", "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config | ({key: said} if said else {})))
    return folder


def words(*shape: int, kind: Any = np.int32) -> Any:
    return np.ones(shape, kind)


def halves(*shape: int, kind: Any = np.float16) -> Any:
    return np.ones(shape, kind)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str]] = {
    "biases that are no floats": (
        {"weight": words(64, 8, kind=np.uint32), "scales": halves(64, 1), "biases": words(64, 1)},
        {"bits": 4, "group_size": 64},
        "has no floats",
    ),
    "scales that are no floats": (
        {"qweight": words(8, 64), "qzeros": words(2, 8), "scales": words(2, 64)},
        GPTQ,
        "has no floats",
    ),
    "codes of bytes": (
        {"qweight": words(8, 64, kind=np.int8), "qzeros": words(2, 8), "scales": halves(2, 64)},
        GPTQ,
        "no words of 32 bits",
    ),
    "zero points of 64 bits": (
        {"qweight": words(8, 64), "qzeros": words(2, 8, kind=np.int64), "scales": halves(2, 64)},
        GPTQ,
        "no words of 32 bits",
    ),
    "rows of no whole words": (
        {"qweight": words(8, 33), "qzeros": words(2, 4), "scales": halves(2, 33)},
        GPTQ,
        "33 rows are no whole words",
    ),
    "groups that are not there": (
        {
            "qweight": words(8, 64),
            "qzeros": words(2, 8),
            "scales": halves(2, 64),
            "g_idx": np.full(64, 7, np.int32),
        },
        GPTQ,
        "g_idx names groups that are not there",
    ),
    "codes in bytes in another order": (
        {
            "weight": words(64, 64, kind=np.int8),
            "weight_scale": halves(64, 2),
            "weight_g_idx": np.arange(64, dtype=np.int32)[::-1].copy() // 32,
        },
        None,
        "order of columns is not read",
    ),
    "a shape below zero": (
        {
            "weight_packed": words(64, 8),
            "weight_scale": halves(64, 1),
            "weight_shape": np.array([-1, 64, 64]),
        },
        None,
        "weight_shape is [-1, 64, 64]",
    ),
    "rows in another order": (
        {
            "weight": words(64, 64, kind=np.int8),
            "SCB": halves(64, kind=np.float32),
            "weight_format": np.array(3, np.uint8),
        },
        None,
        "another order of its rows",
    ),
    "a tensor scale of zero": (
        {
            "weight_packed": words(64, 32, kind=np.uint8),
            "weight_scale": np.ones((64, 4), ml_dtypes.float8_e4m3fn),
            "weight_global_scale": np.zeros(1, np.float32),
        },
        None,
        "the scale of the tensor is inf",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_costs_its_own_layer(case: str, tmp_path: Path) -> None:
    tensors, said, why = CONTRADICTIONS[case]
    own = {f"{NAME}.{name}": value for name, value in tensors.items()}
    key = "quantization" if said and "quant_method" not in said else "quantization_config"
    folder = broken(tmp_path / "m", own, said, key)
    plan = {row["layer_name"]: row for row in aq.plan(folder).to_pylist()}
    assert plan.keys() == own.keys() | {GOOD}
    assert plan[GOOD]["scheme"] == "int4"
    assert any(why in (row["reason"] or "") for row in plan.values()), plan
    result = aq.quantize(aq.scan(folder), continue_on_error=True)
    assert result.failed.num_rows == 0
    for name, value in own.items():
        (row,) = [r for r in pa.table(result.quantized).to_pylist() if r["layer_name"] == name]
        assert row["data"] == value.tobytes()
    aq.quantize_checkpoint(folder, tmp_path / "d")
    assert aq.verify(tmp_path / "d", folder).ok


@pytest.mark.parametrize(
    "said",
    [
        {**GPTQ, "checkpoint_format": ["gptq"]},
        {**GPTQ, "bits": 10**30},
        {**GPTQ, "bits": True},
        {**GPTQ, "group_size": "32"},
        {"quant_method": "gptq"},
    ],
)
def test_a_configuration_may_hold_anything(said: dict[str, Any], tmp_path: Path) -> None:
    tensors = {"qweight": words(8, 64), "qzeros": words(2, 8), "scales": halves(2, 64)}
    own = {f"{NAME}.{name}": value for name, value in tensors.items()}
    folder = broken(tmp_path / "m", own, said, "quantization_config")
    plan = {row["layer_name"]: row for row in aq.plan(folder).to_pylist()}
    assert plan.keys() == own.keys() | {GOOD}
    mlx = {"weight": words(64, 8, kind=np.uint32), "scales": halves(64, 1), "biases": halves(64, 1)}
    own = {f"{NAME}.{name}": value for name, value in mlx.items()}
    for odd in ({"mode": ["affine"]}, {"bits": 2**70}, {"group_size": 0}, {"bits": False}):
        quantization = {"bits": 4, "group_size": 64} | odd
        folder = broken(tmp_path / "x", own, quantization, "quantization")
        assert aq.plan(folder).num_rows == 4


def test_a_name_is_one_layers(tmp_path: Path) -> None:
    tensors = {"qweight": words(8, 64), "qzeros": words(2, 8), "scales": halves(2, 64)}
    own = {f"{NAME}.{name}": value for name, value in tensors.items()}
    own[f"{NAME}.weight"] = halves(64, 64)
    folder = broken(tmp_path / "m", own, GPTQ, "quantization_config")
    assert sorted(aq.scan(folder).layer_names) == sorted([*own, GOOD])


def test_stacks_without_matrices_are_kept(tmp_path: Path) -> None:
    base = "model.layers.0.mlp.experts.gate_up_proj"
    own = {
        f"{base}_blocks": np.zeros((0, 64, 3, 16), np.uint8),
        f"{base}_scales": np.zeros((0, 64, 3), np.uint8),
    }
    folder = broken(tmp_path / "m", own)
    assert sorted(aq.scan(folder).layer_names) == sorted([*own, GOOD])


def nvfp4_gguf(path: Path, scale: Any) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    kind = gguf.GGMLQuantizationType.NVFP4
    data = np.random.default_rng(0).integers(0, 127, (4, 36), np.uint8)
    writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=kind)
    writer.add_tensor("blk.0.ffn_up.scale", np.asarray(scale, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("scale", "is_read"), [([0.5], True), ([1.0, 2.0], False), ([-1], False)])
def test_ggufs_nvfp4_may_have_a_scale(scale: Any, is_read: bool, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "m.gguf"
    nvfp4_gguf(path, scale)
    names = aq.scan(path).layer_names
    assert names == ["blk.0.ffn_up.weight", *([] if is_read else ["blk.0.ffn_up.scale"])]
    if is_read:
        tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == names[0])
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type) * np.float32(scale[0])
        assert np.array_equal(aq.scan(path)[names[0]], expected)


def test_many_layers_are_opened_in_time_that_grows_with_them(tmp_path: Path) -> None:
    """Nothing is timed: three thousand layers would take minutes if each looked for its tensors."""
    own = {}
    for layer in range(3000):
        base = f"model.layers.{layer}.mlp.down_proj"
        own[f"{base}.weight"] = words(1, 8, kind=np.uint32)
        own |= {f"{base}.{name}": halves(1, 1) for name in ("scales", "biases")}
    folder = broken(tmp_path / "m", own, {"bits": 4, "group_size": 64}, "quantization")
    assert len(aq.scan(folder).layer_names) == 3001
