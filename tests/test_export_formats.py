"""What each exporter writes: byte for byte what the format's own tool wrote, where it did; and what
can't be said without changing a number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from conftest import run
from test_foreign import NAMES, checkpoint

TO = {
    "awq": "awq",
    "bnb": "bitsandbytes",
    "ct": "compressed-tensors",
    "gptq": "gptq",
    "mlx": "mlx",
    "modelopt": "modelopt",
}
OTHERWISE = {
    "bnb_int8": "is none of those that bitsandbytes has",
    "ct_nvfp4": "has no exact reciprocal",
    "gptq_int4_asym": "it has a zero point of 0",
    "gptq_v2_int4": "it has a zero point of 0",
}
"""Refused, since a number would change or the format is not written."""
ANOTHER = {
    "ct_int4_asym_g_idx",
    "ct_int4_g_idx",
    "ct_int8_w8a8",
    "gptq_int4_act_order",
    "bnb_fp4_double",
    "bnb_nf4_double",
}
"""Read as numbers, or as another scheme: what is written is not what was read."""


def header_of(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where its tensors begin: NumPy lacks some of their types."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return header, 8 + size


def tensors_of(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Dtype, shape and bytes of each tensor."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        (header, start), data = header_of(path), path.read_bytes()
        for name, said in header.items():
            first, end = said["data_offsets"]
            found[name] = (said["dtype"], said["shape"], data[start + first : start + end])
    return found


def exported(source: Path, folder: Path, to: Any, **options: Any) -> Path:
    part_bytes = options.pop("part_bytes", None)
    aq.quantize_checkpoint(source, folder / "dataset", part_bytes=part_bytes, **options)
    return aq.export(folder / "dataset", folder / "out", to=to)


def format_of(name: str) -> str | None:
    return next((to for start, to in TO.items() if name.startswith(start)), None)


WRITTEN = [name for name in NAMES if format_of(name) and name not in ANOTHER]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_tool_wrote_comes_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    source = checkpoint(name, tmp_path)
    if name in OTHERWISE:
        with pytest.raises(ValueError, match=OTHERWISE[name]):
            exported(source, tmp_path, format_of(name))
        return
    folder = exported(source, tmp_path, format_of(name))
    before, after = tensors_of(source), tensors_of(folder)
    for key, value in before.items():
        if key.endswith("input_scale"):  # Of activations: what is written is of weights alone.
            assert key not in after
        elif value[1] == [1, 1]:  # One block is all.
            assert (after[key][0], after[key][2]) == (value[0], value[2])
        else:
            assert after[key] == value, key
    assert set(after) <= set(before)


@pytest.mark.parametrize("name", WRITTEN)
def test_parts_come_together(name: str, tmp_path: Path) -> None:
    if name in OTHERWISE:
        return
    source = checkpoint(name, tmp_path)
    folder = exported(source, tmp_path, format_of(name), part_bytes=8192)
    counts = pa.table(aq.scan(tmp_path / "dataset"))["part_count"].to_pylist()
    assert any((count or 1) > 1 for count in counts)
    (tmp_path / "whole").mkdir()
    assert tensors_of(folder) == tensors_of(exported(source, tmp_path / "whole", format_of(name)))


CONVERSIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("ct_int4_g128", "gptq"): {},
    ("ct_int4_g128", "awq"): {},
    ("ct_int4_asym_g32", "awq"): {},
    ("gptq_int4", "awq"): {},
    ("awq_gemm", "compressed-tensors"): {},
    ("gptq_int8", "compressed-tensors"): {},
    ("ct_mxfp4", "mlx"): {},
    ("mlx_mxfp8", "compressed-tensors"): {},
    ("mlx_nvfp4", "modelopt"): {},
    ("mlx_nvfp4", "compressed-tensors"): {},
}


@pytest.mark.parametrize(("name", "to"), CONVERSIONS)
def test_numbers_of_one_format_in_anothers_layout(name: str, to: Any, tmp_path: Path) -> None:
    """Every weight is the same number, to the bit; and nothing was quantized again."""
    source = checkpoint(name, tmp_path)
    folder = exported(source, tmp_path, to)
    before, after = aq.scan(source), aq.scan(folder)
    rows = pa.table(aq.scan(tmp_path / "dataset")).to_pylist()
    assert {row["search"] for row in rows if row["scheme"] != "none"} == {"kept"}
    for layer in before.layer_names:
        assert np.array_equal(np.asarray(before[layer]), np.asarray(after[layer])), layer
    reasons = {row["reason"] for row in aq.plan(folder).to_pylist() if row["role"] == "weight"}
    assert all(reason.startswith("already_quantized (") for reason in reasons)


def modelopt(source: Path, scale: float) -> None:
    """Give every layer of a ModelOpt checkpoint that tensor scale."""
    path = source / "model.safetensors"
    header, start = header_of(path)
    data = bytearray(path.read_bytes())
    for name, said in header.items():
        if name.endswith("weight_scale_2"):
            at = start + said["data_offsets"][0]
            data[at : at + 4] = np.array(scale, np.float32).tobytes()
    path.write_bytes(data)


def test_nvfp4_keeps_its_numbers_only_with_an_exact_reciprocal(tmp_path: Path) -> None:
    source = checkpoint("modelopt_nvfp4", tmp_path)
    modelopt(source, 2.0**-11)
    folder = exported(source, tmp_path, "compressed-tensors")
    (divisor,) = {
        value for name, (_, _, value) in tensors_of(folder).items() if "global_scale" in name
    }
    assert np.frombuffer(divisor, np.float32).tolist() == [2.0**11]
    before, after = aq.scan(source), aq.scan(folder)
    for layer in before.layer_names:
        assert np.array_equal(np.asarray(before[layer]), np.asarray(after[layer]))
    modelopt(source, 0.0003)
    (tmp_path / "again").mkdir()
    with pytest.raises(ValueError, match="no exact reciprocal, which the format stores"):
        exported(source, tmp_path / "again", "compressed-tensors")


def test_mlx_has_no_tensor_scale(tmp_path: Path) -> None:
    source = checkpoint("modelopt_nvfp4", tmp_path)
    with pytest.raises(ValueError, match="MLX's nvfp4 has none"):
        exported(source, tmp_path, "mlx")


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A layer of attention and one of a feed-forward network, BF16."""
    folder = tmp_path / "model"
    folder.mkdir()
    layer = "model.layers.0"
    shapes = {f"{layer}.self_attn.{n}_proj.weight": (128, 256) for n in "qkv"}
    shapes |= {f"{layer}.mlp.{n}_proj.weight": (384, 256) for n in ("gate", "up")}
    shapes |= {f"{layer}.mlp.down_proj.weight": (256, 384), "model.embed_tokens.weight": (64, 256)}
    shapes |= {"lm_head.weight": (64, 256), "model.norm.weight": (256,)}
    tensors = {
        name: (rng.normal(size=shape) * 0.05).astype(ml_dtypes.bfloat16)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')
    return folder


WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp8": ("fp8", {"scheme": "fp8_e4m3", "group_size": 128, "group_rows": 128}),
    "fp8 rows": ("compressed-tensors", {"scheme": "fp8_e4m3"}),
    "fp8 tensor": (
        "compressed-tensors",
        {"scheme": "fp8_e4m3", "group_size": -1, "group_rows": -1},
    ),
    "fp8 blocks": (
        "compressed-tensors",
        {"scheme": "fp8_e4m3", "group_size": 128, "group_rows": 128},
    ),
    "nvfp4": ("compressed-tensors", {"scheme": "nvfp4"}),
    "modelopt": ("modelopt", {"scheme": "nvfp4"}),
    "mxfp4": ("compressed-tensors", {"scheme": "mxfp4"}),
    "mlx3": ("mlx", {"scheme": "mlx3", "include": ["role:embedding"]}),
    "nf4": ("bitsandbytes", {"scheme": "nf4"}),
    "nf4_dq": ("bitsandbytes", {"scheme": "nf4_dq"}),
    "bnb_fp4_dq": ("bitsandbytes", {"scheme": "bnb_fp4_dq", "part_bytes": 262144}),
    "gptq": ("gptq", {"scheme": "int4", "symmetric": True, "scale_dtype": "F16"}),
    "awq": ("awq", {"scheme": "int4", "scale_dtype": "F16"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_quantized_here_is_read_as_it_was_written(
    way: str, model: Path, tmp_path: Path
) -> None:
    """By the readers that `test_foreign` compares with the formats' own tools."""
    to, options = WAYS[way]
    folder = exported(model, tmp_path, to, **options)
    dataset, found = aq.scan(tmp_path / "dataset"), aq.scan(folder)
    assert found.layer_names
    assert sorted(found.layer_names) == sorted(dataset.layer_names)
    for layer in dataset.layer_names:
        assert np.array_equal(np.asarray(dataset[layer]), np.asarray(found[layer])), layer
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama"
    said = config.get("quantization_config")
    assert said
    kept = json.dumps(said)
    assert to in {"mlx", "awq"} or "lm_head" in kept


def test_formats_of_one_model_are_groups(model: Path, tmp_path: Path) -> None:
    plan = pa.table(
        {"layer_name": ["*down*", "*mlp*", "*attn*"], "scheme": ["int8", "nvfp4", "fp8_e4m3"]}
    )
    folder = exported(model, tmp_path, "compressed-tensors", plan=plan)
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert said["format"] == "mixed-precision"
    formats = {group["format"] for group in said["config_groups"].values()}
    assert formats == {"pack-quantized", "nvfp4-pack-quantized", "float-quantized"}
    tokens = {
        group["format"]: group["input_activations"] for group in said["config_groups"].values()
    }
    assert tokens["float-quantized"]["strategy"] == "token"
    assert tokens["nvfp4-pack-quantized"] is None
    dataset, found = aq.scan(tmp_path / "dataset"), aq.scan(folder)
    for layer in dataset.layer_names:
        assert np.array_equal(np.asarray(dataset[layer]), np.asarray(found[layer])), layer


def test_mlx_says_what_differs_layer_by_layer(model: Path, tmp_path: Path) -> None:
    plan = pa.table({"layer_name": ["*v_proj*"], "scheme": ["mlx6"]})
    folder = exported(model, tmp_path, "mlx", plan=plan, scheme="mlx3")
    config = json.loads((folder / "config.json").read_text())
    said = config["quantization"]
    assert said == config["quantization_config"]
    assert {k: said[k] for k in ("group_size", "bits", "mode")} == {
        "group_size": 64,
        "bits": 3,
        "mode": "affine",
    }
    assert said["model.layers.0.self_attn.v_proj"]["bits"] == 6
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors_of(folder))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "fp8 shape": ("fp8", {"scheme": "fp8_e4m3"}, "the layout has blocks of 128"),
    "mlx scheme": ("mlx", {"scheme": "int4"}, "'int4' is none of those that MLX has"),
    "bnb scheme": ("bitsandbytes", {"scheme": "int8"}, "none of those that bitsandbytes has"),
    "modelopt": ("modelopt", {"scheme": "mxfp4"}, "none of those that the layout has"),
    "gptq groups": (
        "gptq",
        {"scheme": "int4", "group_size": 100, "symmetric": True, "scale_dtype": "F16"},
        "no multiple of the group size 100",
    ),
    "gptq scales": (
        "gptq",
        {"scheme": "int4", "symmetric": True, "scale_dtype": "F32"},
        "is no F16 number",
    ),
    **{
        f"{to}, signed": (
            to,
            {"scheme": "int4", "symmetric": True, "signed_scales": True, "scale_dtype": "F16"},
            "it has signed_scales.*--no-signed-scales",
        )
        for to in ("compressed-tensors", "gptq", "awq")
    },
    "embedding": (
        "compressed-tensors",
        {"scheme": "int4", "include": ["role:embedding"]},
        "'model.embed_tokens.weight'.*table of embeddings",
    ),
    "gguf": ("gguf", {"scheme": "q8_0"}, "written from GGUF sources only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_loader_does_not_take_is_refused_before_anything_is_written(
    case: str, model: Path, tmp_path: Path
) -> None:
    to, options, why = REFUSED[case]
    aq.quantize_checkpoint(model, tmp_path / "d", **options)
    out = tmp_path / ("out.gguf" if to == "gguf" else "out")
    with pytest.raises(ValueError, match=why):
        aq.export(tmp_path / "d", out, to=to)  # type: ignore[arg-type]
    assert not out.exists()


def test_layers_that_share_a_matrix_share_the_tensor_scale(model: Path, tmp_path: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.self_attn.k_proj.weight"
    tensors[name] = tensors[name] * np.float32(1000).astype(ml_dtypes.bfloat16)
    save_file(tensors, path, metadata={"format": "pt"})
    result = aq.quantize({k: v for k, v in tensors.items() if "attn" in k}, scheme="nvfp4")
    own = {row["layer_name"]: row["tensor_scale"] for row in pa.table(result).to_pylist()}
    assert own[name] != own[name.replace("k_proj", "q_proj")]
    aq.write_parquet(result, tmp_path / "apart.parquet")
    with pytest.raises(ValueError, match="loaders take one tensor scale for"):
        aq.export(tmp_path / "apart.parquet", tmp_path / "out", to="modelopt", source=model)
    folder = exported(model, tmp_path, "modelopt", scheme="nvfp4")  # The job shares them.
    scales = {
        value
        for key, (_, _, value) in tensors_of(folder).items()
        if key.endswith("weight_scale_2") and "attn" in key
    }
    assert len(scales) == 1


def test_the_command_says_how_to_load_it(model: Path, tmp_path: Path) -> None:
    run("quantize", model, "-o", tmp_path / "d", "--scheme", "mlx4", "-q")
    done = run("export", tmp_path / "d", "-o", tmp_path / "out", "--to", "mlx")
    assert f"Next: mlx_lm.generate --model {tmp_path / 'out'} --prompt Hello" in done.stdout
