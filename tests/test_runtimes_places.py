"""Where `--for` reads and writes: nothing of the user's is taken, replaced or removed, and what
can't be written is refused before anything is quantized."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from conftest import run
from mixtures import ALL
from test_foreign import checkpoint as foreign
from test_gguf import write

gguf = pytest.importorskip("gguf")


def hugging_face(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A small Llama as a directory."""
    rng, tensors = np.random.default_rng(seed), {}
    folder.mkdir()
    shapes = {f"self_attn.{n}_proj": (128, 256) for n in "qkv"} | {"self_attn.o_proj": (256, 128)}
    shapes |= {"mlp.gate_proj": (384, 256), "mlp.up_proj": (384, 256), "mlp.down_proj": (256, 384)}
    for block in range(4):
        for name, shape in shapes.items():
            values = (rng.normal(size=shape) * 0.05).astype(ml_dtypes.bfloat16)
            tensors[f"model.layers.{block}.{name}.weight"] = values
    for name in ("model.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = rng.normal(size=(64, 256)).astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = {"model_type": "llama", "torch_dtype": "bfloat16"} | config
    (folder / "config.json").write_text(json.dumps(said))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return hugging_face(tmp_path / "model")


def quantization(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


CONVERTER = """
import shutil, sys
from pathlib import Path
shutil.copyfile(Path(sys.argv[1]) / "as.bin", sys.argv[sys.argv.index("--outfile") + 1])
"""


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of llama.cpp's script, which `test_export_judges` runs: one that copies a file."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER)
    for name in ("torch", "transformers"):
        (folder / f"{name}.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))


def convertible(folder: Path, seed: int) -> Path:
    """A directory with what the converter makes of it."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = np.random.default_rng(seed).normal(size=(32, 256)).astype(np.float32)
    made = write(folder / "as.gguf", {"blk.0.attn_q.weight": weights})
    made.rename(folder / "as.bin")
    return folder


@pytest.mark.usefixtures("converter")
def test_a_converted_model_is_taken_for_no_other(tmp_path: Path) -> None:
    one, two = convertible(tmp_path / "one", 1), convertible(tmp_path / "two", 2)
    out = tmp_path / "m.gguf"
    stale = tmp_path / ".m.16bit.gguf"
    aq.quantize_checkpoint(one, out, target="llama.cpp", bits=8)
    first = out.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "one", "site", "two"]
    # What a stopped run leaves is of the first model.
    aq.quantize_checkpoint(
        one, tmp_path / "x.gguf", target="llama.cpp", bits=8, dataset=tmp_path / "d"
    )
    for suffix in ("", ".json"):
        shutil.copyfile(tmp_path / f"d.16bit.gguf{suffix}", f"{stale}{suffix}")
    out.unlink()
    with pytest.raises(FileExistsError, match="is of another model"):
        aq.quantize_checkpoint(two, out, target="llama.cpp")
    aq.quantize_checkpoint(two, out, target="llama.cpp", bits=8, overwrite=True)
    assert out.read_bytes() != first
    # With the dataset its source is kept, so that it can be exported again.
    again = aq.export(tmp_path / "d", tmp_path / "again.gguf", to="gguf")
    assert again.read_bytes() == first


@pytest.mark.usefixtures("converter")
def test_no_file_of_the_users_is_removed(tmp_path: Path) -> None:
    source = convertible(tmp_path / "one", 1)
    own = tmp_path / ".m.16bit.gguf"
    own.write_text("mine")
    with pytest.raises(FileExistsError, match="is of another model"):
        aq.quantize_checkpoint(source, tmp_path / "m.gguf", target="llama.cpp", overwrite=True)
    assert own.read_text() == "mine"
    source = write(tmp_path / "m.16bit.gguf", {"blk.0.attn_q.weight": np.ones((4, 256), "f4")})
    aq.quantize_checkpoint(source, tmp_path / "m.gguf", target="llama.cpp")
    assert source.exists()
    assert own.read_text() == "mine"


def test_keys_are_those_of_the_file_that_was_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weights = {"blk.0.attn_q.weight": np.ones((4, 256), np.float32)}
    writer = gguf.GGUFWriter(folder / "a-projector.gguf", "clip")
    writer.add_tensor("mm.0.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write(folder / "m-model.gguf", weights)
    out = tmp_path / "out.gguf"
    run("quantize", folder, "-o", out, "--for", "llama.cpp", "--variant", "m-model")
    assert gguf.GGUFReader(out).fields["general.architecture"].contents() == "llama"


def test_a_dataset_of_the_users_stays(model: Path, tmp_path: Path) -> None:
    aq.quantize_checkpoint(model, tmp_path / "out.dataset", scheme="nf4")
    aq.quantize_checkpoint(model, tmp_path / "out", target="bitsandbytes", scheme="nf4")
    assert aq.verify(tmp_path / "out.dataset", model).ok


@pytest.mark.parametrize(
    ("out", "dataset", "why"),
    [
        ("model/out", None, "lies in .*model"),
        ("d/out", "d", "does not exist|lies in"),
        ("out", "out", "is, holds or lies in"),
        ("out", "model/d", "lies in .*model"),
    ],
)
def test_places_are_refused_before_anything_is_done(
    out: str, dataset: str | None, why: str, model: Path, tmp_path: Path
) -> None:
    place = None if dataset is None else tmp_path / dataset
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises((OSError, ValueError), match=why):
        aq.quantize_checkpoint(model, tmp_path / out, target="mlx", dataset=place)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_source_is_not_replaced_by_itself(tmp_path: Path) -> None:
    source = write(tmp_path / "m.gguf", {"blk.0.attn_q.weight": np.ones((4, 256), "f4")})
    before = source.read_bytes()
    with pytest.raises(ValueError, match="which is read"):
        aq.quantize_checkpoint(source, source, target="llama.cpp", overwrite=True)
    assert source.read_bytes() == before
    run("quantize", source, "-o", tmp_path / "x.gguf", "--for", "mlx", status=2)


def test_what_no_directory_can_be_made_of(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arrowquant._runtimes.convert.find_spec", lambda _: None)
    source = write(tmp_path / "m.gguf", {"blk.0.attn_q.weight": np.ones((4, 256), "f4")})
    with pytest.raises(ValueError, match=r"is GGUF, with llama.cpp's names"):
        aq.quantize_checkpoint(source, tmp_path / "out", target="mlx")
    (model / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        aq.quantize_checkpoint(model, tmp_path / "out", target="vllm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "model"]


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gemma4"])
def test_experts_are_kept_where_loaders_stack_them(name: str, tmp_path: Path) -> None:
    mixture = ALL[name](tmp_path / "model")
    done = run("quantize", mixture.folder, "-o", tmp_path / "out", "--for", "bitsandbytes")
    assert "since bitsandbytes doesn't take them" in done.stderr
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert any(name.endswith("q_proj.weight.absmax") for name in tensors)
    assert not any("experts" in name and "absmax" in name for name in tensors)


def test_a_head_that_is_quantized_is_not_listed_as_kept(model: Path, tmp_path: Path) -> None:
    for name, options in (
        ("bitsandbytes", {"include": ["role:head"]}),
        ("transformers", {"include": ["role:head"], "bits": 8}),
    ):
        out = aq.quantize_checkpoint(model, tmp_path / name, target=name, **options)  # type: ignore[call-overload]
        said = quantization(out)
        kept = said.get("llm_int8_skip_modules") or said["modules_to_not_convert"]
        is_quantized = f"{'lm_head'}.weight" not in load_file_names(out, "BF16")
        assert ("lm_head" in kept) != is_quantized, name


def load_file_names(folder: Path, dtype: str) -> set[str]:
    """The tensors of a type."""
    data = (folder / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name for name, said in header.items() if said.get("dtype") == dtype}


def test_what_another_tool_says_of_its_codes_is_not_copied(tmp_path: Path) -> None:
    source = foreign("modelopt_nvfp4", tmp_path)
    (source / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    out = aq.quantize_checkpoint(source, tmp_path / "out", target="mlx", scheme="mxfp4")
    assert not (out / "hf_quant_config.json").exists()


@pytest.mark.parametrize(
    ("name", "runtime", "options"),
    [
        ("mlx_mixed", "vllm", {}),
        ("mlx_mixed", "bitsandbytes", {}),
        ("gptq_int4", "mlx", {"keep": ["*q_proj*"]}),
    ],
)
def test_codes_that_are_kept_are_decoded_where_the_format_lacks_them(
    name: str, runtime: Any, options: Any, tmp_path: Path
) -> None:
    source = foreign(name, tmp_path)
    words = [f"--keep={pattern}" for pattern in options.get("keep", [])]
    done = run("quantize", source, "-o", tmp_path / "out", "--for", runtime, *words)
    assert "are written decoded" in done.stderr
    before, after = aq.scan(source), aq.scan(tmp_path / "out")
    kept = [n for n in before.layer_names if "embed" in n or ("q_proj" in n and words)]
    assert kept
    for layer in kept:
        assert np.array_equal(np.asarray(before[layer]), np.asarray(after[layer])), layer


def test_settings_of_the_user_hold_for_every_layer(model: Path) -> None:
    def sizes(*words: str) -> set[tuple[str, int, bool | None]]:
        done = run("plan", model, "--json", *words)
        rows = [row for row in json.loads(done.stdout) if row["scheme"] != "none"]
        return {(row["scheme"], row["group_size"], row["is_symmetric"]) for row in rows}

    assert sizes("--for", "vllm", "--group-size", "32") == {("int4", 32, True)}
    assert sizes("--for", "vllm", "--asymmetric") == {("int4", 128, False)}
    assert {size for _, size, _ in sizes("--for", "mlx", "--bits", "3", "--group-size", "32")} == {
        32
    }


def test_a_tied_head_becomes_what_its_table_does(tmp_path: Path) -> None:
    model = hugging_face(tmp_path / "model", tie_word_embeddings=True)
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(aq.QuantizationWarning, match=r"'lm_head.weight' is not written"):
        out = aq.quantize_checkpoint(model, tmp_path / "out", target="mlx", bits=3)
    said = quantization(out)
    assert said["model.embed_tokens"]["bits"] == 6
    assert not any("lm_head" in name for name in [*said, *load_file(out / "model.safetensors")])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True


def test_an_interrupted_run_resumes_whatever_it_was_to_replace(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    aq.quantize_checkpoint(model, out, target="mlx", bits=8)
    command = [sys.executable, "-m", "arrowquant", "quantize", str(model), "-o", str(out)]
    command += ["--for", "mlx", "--overwrite", "--part-mib", "1", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    receipts = tmp_path / ".out.dataset" / ".receipts"
    for _ in range(2000):
        if receipts.exists() and any(receipts.iterdir()):
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.005)
    _, told = process.communicate()
    if process.returncode == 0:
        pytest.skip("it was faster than the signal")
    assert "are finished and kept" in told
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "were finished before" in done.stdout
    assert quantization(out)["bits"] == 4
    assert not (tmp_path / ".out.dataset").exists()


def test_names_with_spaces_are_quoted(model: Path, tmp_path: Path) -> None:
    done = run("quantize", model, "-o", tmp_path / "my model", "--for", "mlx", "-q")
    assert done.stdout == done.stderr == ""
    done = run("quantize", model, "-o", tmp_path / "my other", "--for", "vllm")
    assert f"Next: vllm serve '{tmp_path / 'my other'}'" in done.stdout


def test_parts_that_cross_words_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = hugging_face(tmp_path / "model")
    tensors = {"layers.0.down_proj.weight": np.ones((48, 1 << 16), np.float16)}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    aq.quantize_checkpoint(model, tmp_path / "d", scheme="int4", group_size=16, part_bytes=1 << 20)
    for to in ("compressed-tensors", "awq"):
        with pytest.raises(ValueError, match=r"larger parts \(--part-mib\)"):
            aq.export(tmp_path / "d", tmp_path / "out", to=to)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()


def test_what_asks_for_an_axis_says_so(tmp_path: Path) -> None:
    mixture = ALL["unknown"](tmp_path / "model")
    done = run("quantize", mixture.folder, "-o", tmp_path / "out", "--for", "vllm")
    assert "--stack-axis" in done.stdout
