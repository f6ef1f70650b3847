"""Experts in exported checkpoints: under the names that loaders want, with the numbers they had."""

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
from mixtures import ALL, Mixture

SIZE = 16
SHORT = {"gate": "w1", "up": "w3", "down": "w2"}


@pytest.fixture(params=ALL)
def mixture(request: pytest.FixtureRequest, tmp_path: Path) -> Mixture:
    return ALL[request.param](tmp_path / request.param)


def tensors_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def quantized(matrix: Any, scheme: str, **settings: Any) -> Any:
    """What a matrix alone decodes to; of columns it knows other variances than a fused one."""
    source = {"w": matrix.astype(ml_dtypes.bfloat16)}
    result = aq.quantize(source, scheme=scheme, search="none", **settings).quantized
    return aq.to_numpy(aq.dequantize(result, dtype="F32"))["w"]


def of_compressed_tensors(tensors: dict[str, Any], module: str) -> Any:
    """A symmetric int8 matrix, by NumPy."""
    rows, columns = tensors[f"{module}.weight_shape"]
    codes = tensors[f"{module}.weight_packed"].view(np.uint8)[:rows, :columns]
    scales = tensors[f"{module}.weight_scale"].astype(np.float32)
    return (codes.astype(np.float32) - 128) * scales.repeat(columns // scales.shape[1], 1)


def of_mlx(tensors: dict[str, Any], module: str) -> Any:
    """Matrices of MLX's eight bits, by NumPy; kept ones as they are."""
    weight = tensors[f"{module}.weight"]
    if f"{module}.scales" not in tensors:
        return weight.astype(np.float32)
    codes = weight.view(np.uint8).astype(np.float32)
    width = codes.shape[-1] // tensors[f"{module}.scales"].shape[-1]
    scales, biases = (
        tensors[f"{module}.{name}"].astype(np.float32).repeat(width, -1)
        for name in ("scales", "biases")
    )
    return codes * scales + biases


def single_name(mixture: Mixture, index: int, part: str) -> str:
    block = mixture.block if mixture.block.endswith("experts") else f"{mixture.block}.experts"
    names = SHORT if mixture.model_type == "mixtral" else {}
    return f"{block}.{index}.{names.get(part, f'{part}_proj')}"


def exported(mixture: Mixture, folder: Path, to: Any, **options: Any) -> Path:
    aq.quantize_checkpoint(mixture.folder, folder / "dataset", **options)
    return aq.export(folder / "dataset", folder / "out", to=to)


@pytest.mark.filterwarnings("ignore:no loader was seen")
def test_each_expert_is_a_module(mixture: Mixture, tmp_path: Path) -> None:
    options = {"scheme": "int8", "group_size": SIZE, "symmetric": True, "search": "none"}
    if mixture.model_type == "dbrx":
        with pytest.raises(ValueError, match="no loader was seen that takes DBRX"):
            exported(mixture, tmp_path, "compressed-tensors", **options)
        return
    folder = exported(mixture, tmp_path, "compressed-tensors", **options)
    tensors = tensors_of(folder)
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    if mixture.asks:
        stacks = [name for name in tensors if name.startswith(f"{mixture.block}.")]
        assert stacks
        assert not any("packed" in name for name in stacks)
        assert mixture.block in said["ignore"]
        return
    for (index, part), matrix in mixture.experts.items():
        found = of_compressed_tensors(tensors, single_name(mixture, index, part))
        wanted = quantized(matrix, "int8", group_size=SIZE, symmetric=True)
        assert np.array_equal(found, wanted), (index, part)
    targets = [name for group in said["config_groups"].values() for name in group["targets"]]
    assert targets.count(r"re:.*\.experts\..*") == 1
    routers = [name for name in mixture.others if name.endswith(("gate.weight", "router.weight"))]
    for name in routers:
        assert name.removesuffix(".weight") in said["ignore"] or tensors[name].ndim < 2


MODULES = {
    "mixtral": "model.layers.0.block_sparse_moe.switch_mlp",
    "qwen3_moe": "model.layers.0.mlp.switch_mlp",
    "qwen3_5_moe": "model.language_model.layers.0.mlp.switch_mlp",
    "qwen3_vl_moe": "model.language_model.layers.0.mlp.switch_mlp",
    "llama4": "language_model.model.layers.0.feed_forward.experts",
    "gpt_oss": "model.layers.0.mlp.experts",
    "granitemoe": "model.layers.0.block_sparse_moe.switch_mlp",
    "gemma4": "model.language_model.layers.0.experts.switch_glu",
    "nemotron_h": "backbone.layers.2.mixer.switch_mlp",
}
"""mlx-lm's modules."""


def test_experts_are_stacked_for_mlx(mixture: Mixture, tmp_path: Path) -> None:
    folder = exported(mixture, tmp_path, "mlx", scheme="mlx8", group_size=32, search="none")
    tensors = tensors_of(folder)
    assert (folder / "model.safetensors.index.json").exists()
    if mixture.asks:
        assert not any("switch_mlp" in name for name in tensors)
        return
    for (index, part), matrix in mixture.experts.items():
        wanted = matrix
        if matrix.shape[1] % 32 == 0:  # Others don't fit, and are kept.
            wanted = quantized(matrix, "mlx8", group_size=32)
        if mixture.model_type == "dbrx":
            name = {"gate": "w1", "up": "v1", "down": "w2"}[part]
            found = of_mlx(tensors, f"transformer.blocks.0.ffn.experts.{index}.{name}")
        else:
            names = {"up": "fc1", "down": "fc2"} if mixture.model_type == "nemotron_h" else {}
            module = MODULES[mixture.model_type]
            found = of_mlx(tensors, f"{module}.{names.get(part, f'{part}_proj')}")[index]
        assert np.array_equal(found, wanted), (index, part)
    if mixture.model_type == "gpt_oss":
        biases = mixture.others[f"{mixture.block}.gate_up_proj_bias"]
        for first, part in enumerate(("gate", "up")):
            found = tensors[f"{mixture.block}.{part}_proj.bias"].astype(np.float32)
            assert np.array_equal(found, biases[:, first::2])
        assert f"{mixture.block}.gate_up_proj_bias" not in tensors


def test_mlx_has_no_stack_with_a_hole(tmp_path: Path) -> None:
    folder = ALL["qwen3_moe"](tmp_path / "source").folder
    tensors = tensors_of(folder)
    gone = [name for name in tensors if ".experts.1." in name and "down_proj" in name]
    assert gone
    for name in gone:
        del tensors[name]
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    aq.quantize_checkpoint(folder, tmp_path / "d", scheme="mlx8", group_size=32)
    with pytest.raises(ValueError, match=r"lacks some of its \d+ experts"):
        aq.export(tmp_path / "d", tmp_path / "out", to="mlx")
    assert not (tmp_path / "out").exists()


def test_a_kept_expert_is_a_module_too(tmp_path: Path) -> None:
    mixture = ALL["llama4"](tmp_path / "model")
    kept = f"{mixture.block}.gate_up_proj[2]"
    plan = pa.table({"layer_name": [kept], "scheme": ["none"]})
    folder = exported(
        mixture, tmp_path, "compressed-tensors", scheme="int8", group_size=SIZE, plan=plan
    )
    tensors = tensors_of(folder)
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    for part in ("gate", "up"):
        name = single_name(mixture, 2, part)
        found = tensors[f"{name}.weight"].astype(np.float32)
        assert np.array_equal(found, mixture.experts[2, part])
        assert name in said["ignore"]
    assert f"{single_name(mixture, 1, 'up')}.weight_packed" in tensors


def test_experts_of_one_stack_are_quantized_alike(tmp_path: Path) -> None:
    mixture = ALL["qwen3_moe"](tmp_path / "model")
    plan = pa.table({"layer_name": ["*.experts.2.up_proj.*"], "scheme": ["mlx4"]})
    with pytest.raises(ValueError, match=r"goes into '.*switch_mlp.up_proj.weight' with others"):
        exported(mixture, tmp_path, "mlx", scheme="mlx8", group_size=32, plan=plan)


@pytest.mark.parametrize("name", ["llama4", "gpt_oss", "dbrx"])
def test_layouts_that_no_loader_takes_are_refused(name: str, tmp_path: Path) -> None:
    mixture = ALL[name](tmp_path / "model")
    with pytest.raises(ValueError, match="no loader was seen that takes experts"):
        exported(mixture, tmp_path, "fp8", scheme="fp8_e4m3", group_size=128, group_rows=128)


def test_bitsandbytes_takes_no_stacks(tmp_path: Path) -> None:
    mixture = ALL["gemma4"](tmp_path / "model")
    with pytest.raises(ValueError, match="transformers replaces linear layers only"):
        exported(mixture, tmp_path, "bitsandbytes", scheme="nf4")


@pytest.mark.filterwarnings("ignore:no loader was seen")
def test_the_numbers_of_gpt_oss_are_copied(tmp_path: Path) -> None:
    """MXFP4 in another layout: each code and each scale is the one that it was."""
    mixture = ALL["gpt_oss_mxfp4"](tmp_path / "model")
    folder = exported(mixture, tmp_path, "compressed-tensors", scheme="mxfp4")
    source, tensors = tensors_of(mixture.folder), tensors_of(folder)
    for part, name, rows in (
        ("gate", "gate_up_proj", slice(0, None, 2)),
        ("up", "gate_up_proj", slice(1, None, 2)),
        ("down", "down_proj", slice(None)),
    ):
        for index in range(4):
            module = single_name(mixture, index, part)
            blocks = source[f"{mixture.block}.{name}_blocks"][index, rows]
            assert np.array_equal(
                tensors[f"{module}.weight_packed"], blocks.reshape(len(blocks), -1)
            )
            scales = source[f"{mixture.block}.{name}_scales"][index, rows]
            assert np.array_equal(tensors[f"{module}.weight_scale"], scales)


def test_gate_and_up_of_an_unknown_model_are_not_split(tmp_path: Path) -> None:
    mixture = ALL["unknown"](tmp_path / "model")
    scan = aq.scan(mixture.folder, stack_axis=-1)
    aq.quantize_checkpoint(scan, tmp_path / "d", scheme="int8", group_size=SIZE)
    with pytest.raises(ValueError, match="their order is not known for model_type 'novel_moe'"):
        aq.export(tmp_path / "d", tmp_path / "out")


def test_stacks_of_no_known_model_are_matrices_as_they_lie(tmp_path: Path) -> None:
    """`gate_up` and `down` that map to and fro say nothing of halves, and nobody else does."""
    rng = np.random.default_rng(5)
    shapes = {"gate_up_proj": (4, 32, 64), "down_proj": (4, 64, 32)}
    stacks = {n: rng.normal(size=s).astype("float32") for n, s in shapes.items()}
    model = tmp_path / "model"
    model.mkdir()
    save_file({f"mlp.experts.{n}": stack for n, stack in stacks.items()}, model / "m.safetensors")
    options: Any = {"scheme": "int8", "group_size": SIZE, "symmetric": True}
    aq.quantize_checkpoint(model, tmp_path / "d", **options)
    with pytest.warns(aq.QuantizationWarning, match="no config.json"):
        folder = aq.export(tmp_path / "d", tmp_path / "out")
    tensors = tensors_of(folder)
    for name, stack in stacks.items():
        for index, matrix in enumerate(stack):
            found = of_compressed_tensors(tensors, f"mlp.experts.{index}.{name}")
            result = aq.quantize({"w": matrix}, **options).quantized
            assert np.array_equal(found, aq.to_numpy(aq.dequantize(result))["w"])
