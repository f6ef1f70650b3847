"""Which files are a checkpoint, what is wrong with them, and what travels along."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import arrowquant as aq

INDEX = "model.safetensors.index.json"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4943162336\n"


def w(*shape: int, value: float = 0.5) -> Any:
    return np.full(shape, value, np.float32)


def shard(folder: Path, number: int, count: int, name: str | None = None) -> Path:
    path = folder / f"model-{number:05}-of-{count:05}.safetensors"
    save_file({name or f"l{number}.weight": w(64, 64, value=number)}, path)
    return path


def run(*words: Any, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arrowquant", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def failures(source: Any) -> dict[str, str]:
    """The rows that came failed, and why."""
    rows = pa.table(aq.scan(source)).to_pylist()
    return {
        row["layer_name"]: row["error_message"]
        for row in rows
        if row.get("error_code") == "source_unreadable"
    }


def test_a_number_that_is_missing_is_a_failed_row(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for number in (1, 3):
        shard(folder, number, 4)
    (folder / "model-00002-of-00004.safetensors").symlink_to("../blobs/gone")
    bad = failures(folder)
    assert set(bad) == {f"model-0000{n}-of-00004.safetensors" for n in (2, 4)}
    assert all("Fetch it, and run again" in why for why in bad.values())
    with pytest.raises(aq.CheckpointStoppedError, match="source_unreadable"):
        aq.quantize_checkpoint(folder, tmp_path / "out")
    run("quantize", folder, "-o", tmp_path / "out", "--continue-on-error", code=1)
    run("export", tmp_path / "out", "-o", tmp_path / "e", code=2)
    # Once they are there, a retry does them, whatever layers they hold.
    (folder / "model-00002-of-00004.safetensors").unlink()
    shard(folder, 2, 4)
    shard(folder, 4, 4)
    run("quantize", folder, "-o", tmp_path / "out", "--retry-failed")
    assert sorted(aq.scan(tmp_path / "out").layer_names) == [f"l{n}.weight" for n in (1, 2, 3, 4)]
    assert aq.verify(tmp_path / "out", folder).ok


DAMAGE = {
    "a git-lfs pointer": (lambda path: path.write_text(LFS), "git lfs pull"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "copied whole"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes are no header"),
    "nonsense": (lambda path: path.write_bytes(b"\xff" * 4096), "Is it a safetensors file"),
    "not there": (lambda path: path.unlink(), "not there"),
}


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize(("damage", "why"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_costs_its_own_layers(
    damage: Any, why: str, with_index: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    paths = [shard(folder, number, 2) for number in (1, 2)]
    whole = paths[1].read_bytes()
    if with_index:
        weight_map = {f"l{n}.weight": paths[n - 1].name for n in (1, 2)}
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    damage(paths[1])
    ((layer, message),) = failures(folder).items()
    assert layer == ("l2.weight" if with_index else paths[1].name)
    assert paths[1].name in message
    assert why in message
    out = tmp_path / "out"
    first = aq.quantize_checkpoint(folder, out, continue_on_error=True)
    assert pa.table(first)["layer_name"].to_pylist() == ["l1.weight"]
    assert first.failed["error_code"].to_pylist() == ["source_unreadable"]
    paths[1].write_bytes(whole)
    second = aq.quantize_checkpoint(folder, out, retry_failed=True)
    assert second.failed.num_rows == 0
    assert sorted(second.layer_names) == ["l1.weight", "l2.weight"]
    assert aq.verify(out, folder).ok
    damage(paths[0])
    damage(paths[1])
    with pytest.raises(
        (OSError, ValueError), match=r"model-00001|none of its 2 files|holds no file"
    ):
        aq.scan(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_said(tmp_path: Path) -> None:
    shard(tmp_path, 1, 2)
    shard(tmp_path, 2, 2).chmod(0)
    ((_, message),) = failures(tmp_path).items()
    assert "chmod u+r" in message


def two(folder: Path, *names: str, same: bool = False) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        layer = "a.weight" if same else f"l{number}.weight"
        save_file({layer: w(64, 64)}, folder / name)
    return folder


SEVERAL = {
    "consolidated": ("consolidated.safetensors", "model.safetensors"),
    "a variant": ("model.safetensors", "model.fp16.safetensors"),
    "an adapter": ("adapter_model.safetensors", "model.safetensors"),
    "two numbered sets": (
        "a-00001-of-00001.safetensors",
        "b-00001-of-00001.safetensors",
    ),
    "a numbered variant": (
        "model-00001-of-00001.safetensors",
        "model-00001-of-00001.fp16.safetensors",
    ),
}


@pytest.mark.parametrize("names", SEVERAL.values(), ids=SEVERAL)
def test_two_checkpoints_in_one_directory_are_refused_by_name(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    folder = two(tmp_path / "m", *names)
    with pytest.raises(aq.SeveralCheckpointsError, match="holds 2 checkpoints") as caught:
        aq.scan(folder)
    text, found = str(caught.value), caught.value.checkpoints.to_pylist()
    assert all(name in text for name in names)
    assert "--variant" in text
    assert {row["files"] for row in found} == set(names)
    for row in found:
        (name,) = aq.scan(folder, variant=row["variant"]).layer_names
        assert name == f"l{names.index(row['files'])}.weight"
    with pytest.raises(ValueError, match=r"has no variant 'fp8'. Choose one of"):
        aq.scan(folder, variant="fp8")
    done = run("plan", folder, code=2)
    assert all(name in done.stdout for name in names)
    chosen = found[0]["variant"]
    run("quantize", folder, "-o", tmp_path / "out", "--variant", chosen)
    assert run("verify", tmp_path / "out", "--against", folder).returncode == 0


def test_files_that_hold_the_same_tensors_are_two_checkpoints(tmp_path: Path) -> None:
    folder = two(tmp_path / "m", "a.safetensors", "ema.safetensors", same=True)
    with pytest.raises(ValueError, match=r"a.safetensors and ema.safetensors both hold 'a.weight'"):
        aq.scan(folder)
    apart = two(tmp_path / "n", "a.safetensors", "b.safetensors")
    assert aq.scan(apart).layers == 2


def test_an_index_comes_first_and_what_it_leaves_out_is_said(tmp_path: Path) -> None:
    path = shard(tmp_path, 1, 1)
    save_file({"other.weight": w(64, 64)}, tmp_path / "consolidated.safetensors")
    index: dict[str, Any] = {"weight_map": {"l1.weight": path.name}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.warns(aq.QuantizationWarning, match=r"does not list 'consolidated.safetensors'"):
        assert aq.scan(tmp_path).layer_names == ["l1.weight"]
    assert aq.scan(tmp_path, variant="consolidated").layer_names == ["other.weight"]
    (tmp_path / "consolidated.safetensors").unlink()
    save_file({"l1.weight": w(64, 64), "l1.bias": w(64)}, path)
    with pytest.warns(aq.QuantizationWarning, match=r"does not list 'l1.bias'.* read, too"):
        assert set(aq.scan(tmp_path).layer_names) == {"l1.weight", "l1.bias"}
    index = {"weight_map": {"l1.weight": path.name, "l1.bias": path.name}}
    (tmp_path / INDEX).write_text(json.dumps(index | {"metadata": {"total_size": 7}}))
    with pytest.warns(aq.QuantizationWarning, match="total_size 7, but its files hold 16,640"):
        aq.scan(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps(index | {"metadata": {"total_size": 16640}}))
    aq.scan(tmp_path)


def test_what_belongs_to_a_model_travels_along(tmp_path: Path) -> None:
    """A snapshot of links into a cache: the path that the user named is the origin."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    metadata = {"format": "pt", "author": "é", "zeta": "1"}
    tensors = {"a.weight": w(128, 128), "norm.weight": w(128)}
    save_file(tensors, blobs / "f00d", metadata=metadata)
    (snapshot / "model.safetensors").symlink_to("../../blobs/f00d")
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    (snapshot / "tokenizer.json").write_text("{}")
    for number, source in enumerate((snapshot / "model.safetensors", snapshot)):
        out, to = tmp_path / f"out{number}", tmp_path / f"e{number}"
        aq.quantize_checkpoint(source, out)
        assert aq.scan(out).metadata == metadata
        aq.export(out, to)
        assert json.loads((to / "config.json").read_text())["model_type"] == "llama"
        assert (to / "tokenizer.json").is_file()
        with safe_open(to / "model.safetensors", "np") as file:
            assert file.metadata() == metadata
        run("dequantize", out, "-o", tmp_path / f"b{number}.safetensors")
        with safe_open(tmp_path / f"b{number}.safetensors", "np") as file:
            assert file.metadata() == metadata
    run("quantize", snapshot / "model.safetensors", "-o", tmp_path / "q.parquet")
    assert aq.scan(tmp_path / "q.parquet").metadata == metadata
    run("dequantize", tmp_path / "q.parquet", "-o", tmp_path / "q.safetensors")
    with safe_open(tmp_path / "q.safetensors", "np") as file:
        assert file.metadata() == metadata


def test_the_same_bytes_under_another_time_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    path = folder / "m.safetensors"
    save_file({"a.weight": w(64, 64), "b.weight": w(64, 64, value=2)}, path)
    out = tmp_path / "out"
    aq.quantize_checkpoint(folder, out)
    before = {file: file.read_bytes() for file in (out / "layers").iterdir()}
    os.utime(path, (1, 1))
    with pytest.warns(aq.QuantizationWarning, match=r"m.safetensors: changed since"):
        aq.quantize_checkpoint(folder, out)
    assert {file: file.read_bytes() for file in (out / "layers").iterdir()} == before
    aq.quantize_checkpoint(folder, out)  # It is known by now.
    # A header that says more moves the tensors in the file, and changes none.
    tensors = load_file(path)
    save_file(tensors, path, metadata={"about": "x" * 400})
    with pytest.warns(aq.QuantizationWarning):
        aq.quantize_checkpoint(folder, out)
    assert aq.verify(out, folder).ok
    save_file(tensors | {"b.weight": w(64, 64, value=3)}, path)
    with (
        pytest.warns(aq.QuantizationWarning),
        pytest.raises(ValueError, match=r"layer 'b.weight' of m.safetensors is not as it was"),
    ):
        aq.quantize_checkpoint(folder, out)


def test_cleaned_data_can_be_retried(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    bad = w(64, 64)
    bad[3, 5] = np.nan
    tensors = {"a.weight": w(64, 64), "b.weight": bad}
    path = folder / "m.safetensors"
    save_file(tensors, path)
    out = tmp_path / "out"
    aq.quantize_checkpoint(folder, out, continue_on_error=True)
    bad[3, 5] = 0
    save_file(tensors, path)
    os.utime(path, (2, 2))
    with pytest.warns(aq.QuantizationWarning, match="changed since"):
        dataset = aq.quantize_checkpoint(folder, out, retry_failed=True)
    assert dataset.failed.num_rows == 0
    assert aq.verify(out, folder).ok
    assert sorted(dataset.layer_names) == ["a.weight", "b.weight"]


def with_a_bad_layer(path: Path, kind: str, *, clean: bool, order: int, **others: Any) -> None:
    """A file of four layers, one of which has a NaN until it is cleaned, in one of two orders."""
    tensors: dict[str, Any] = {name: w(128, 64, value=at) for at, name in enumerate("acd", 1)}
    bad = w(128, 64, value=7)
    bad[3, 5] = 0 if clean else np.nan
    tensors = {f"{name}.weight": value for name, value in (tensors | {"b": bad}).items()} | others
    tensors = {name: tensors[name] for name in sorted(tensors)[::order]}
    if kind == "npz":
        np.savez(path, **tensors)
        return
    head, at = {}, 0
    for name, value in tensors.items():
        dtype = {"float64": "F64", "float32": "F32", "float16": "F16"}[str(value.dtype)]
        offsets = [at, at + value.nbytes]
        head[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": offsets}
        at += value.nbytes
    text = json.dumps(head).encode()
    data = b"".join(value.tobytes() for value in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"b.weight": w(128, 64, value=7).astype(np.float16)},
        {"b.weight": w(128, 64, value=7).astype(np.float64)},
        {"b.weight": w(64, 96, value=7)},
        {"b.weight": w(1, 5, value=7)[0]},
    ],
    ids=["same", "narrower", "wider", "shape", "vector"],
)
@pytest.mark.parametrize("part_bytes", [1 << 28, 70_000])
def test_a_cleaned_file_may_have_another_order_and_its_failed_layer_another_shape(
    kind: str, changed: Any, part_bytes: int, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    path, out = folder / f"m.{kind}", tmp_path / "out"
    with_a_bad_layer(path, kind, clean=False, order=1)
    first = aq.quantize_checkpoint(folder, out, continue_on_error=True, part_bytes=part_bytes)
    assert first.failed["layer_name"].to_pylist() == ["b.weight"]
    with_a_bad_layer(path, kind, clean=True, order=-1, **changed)
    with pytest.warns(aq.QuantizationWarning, match="changed since"):
        dataset = aq.quantize_checkpoint(folder, out, retry_failed=True)
    assert dataset.failed.num_rows == 0
    assert aq.verify(out, folder).ok
    table = pa.table(dataset).sort_by("row_index")
    assert table["layer_name"].to_pylist() == ["a.weight", "b.weight", "c.weight", "d.weight"]
    assert table["row_index"].to_pylist() == [0, 1, 2, 3]
    for name in "acd":
        assert np.allclose(dataset[f"{name}.weight"], "acd".index(name) + 1, rtol=1e-2)
    expected = changed.get("b.weight", w(128, 64, value=7))
    assert dataset["b.weight"].shape == expected.shape
    again = aq.quantize_checkpoint(folder, out)  # Now it is what the dataset was made from.
    assert len(again.manifest.attempts) == 3
    assert again.failed.num_rows == 0


def test_a_failed_layer_of_another_number_of_parts_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    path, out = folder / "m.safetensors", tmp_path / "out"
    with_a_bad_layer(path, "safetensors", clean=False, order=1)
    aq.quantize_checkpoint(folder, out, continue_on_error=True, part_bytes=40_000)
    larger = {"b.weight": w(512, 64)}
    with_a_bad_layer(path, "safetensors", clean=True, order=1, **larger)
    with pytest.raises(ValueError, match="another number of parts"):
        aq.quantize_checkpoint(folder, out, retry_failed=True)


def test_a_good_layer_that_changed_or_is_gone_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    path, out = folder / "m.safetensors", tmp_path / "out"
    with_a_bad_layer(path, "safetensors", clean=False, order=1)
    aq.quantize_checkpoint(folder, out, continue_on_error=True)
    for changed, message in (
        ({"c.weight": w(128, 64, value=9)}, "layer 'c.weight' of m.safetensors is not as it was"),
        ({"c.weight": w(64, 128, value=2)}, "layer 'c.weight' of m.safetensors is not as it was"),
        ({"e.weight": w(128, 64)}, "holds other layers than it did: a new 'e.weight'"),
    ):
        with_a_bad_layer(path, "safetensors", clean=True, order=-1, **changed)
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(ValueError, match=message),
        ):
            aq.quantize_checkpoint(folder, out, retry_failed=True)


@pytest.mark.parametrize("kind", ["safetensors", "parquet", "arrow"])
def test_a_source_without_rows_is_an_empty_dataset(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{kind}"
    schema = pa.schema({"layer_name": pa.string(), "data": pa.list_(pa.float32())})
    if kind == "safetensors":
        save_file({}, path)
    elif kind == "parquet":
        pa.parquet.write_table(schema.empty_table(), path)
    else:
        with pa.ipc.new_file(path, schema):
            pass
    out = tmp_path / "out"
    done = run("quantize", path, "-o", out)
    assert "0 layers quantized, 0 kept, 0 failed" in done.stdout
    assert pa.table(aq.scan(out)).num_rows == 0
    assert "layer_name" in aq.scan(out).schema.names
    assert aq.verify(out, path).ok
    run("quantize", path, "-o", out)
    run("inspect", out)


def tied(folder: Path, *, same: bool) -> Path:
    folder.mkdir()
    table = np.random.default_rng(0).normal(size=(512, 128)).astype(np.float32)
    tensors = {
        "model.embed_tokens.weight": table,
        "lm_head.weight": table if same else -table,
        "model.layers.0.self_attn.q_proj.weight": table[:128],
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"tie_word_embeddings": true}')
    return folder


@pytest.mark.parametrize("to", ["compressed-tensors", "safetensors"])
@pytest.mark.parametrize(
    ("same", "options", "stays"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"include": ["role:head"]}, False),
        (True, {"include": ["role:head"], "keep": ["lm_head*"]}, True),
        (True, {"include": ["role:embedding"]}, True),
        (False, {"include": ["role:embedding"]}, False),
    ],
)
def test_a_tied_head_stays_tied_while_it_is_the_embeddings(
    same: bool, options: Any, stays: bool, to: Any, tmp_path: Path
) -> None:
    folder = tied(tmp_path / "m", same=same)
    dataset = aq.quantize_checkpoint(folder, tmp_path / "out", **options)
    rows = {row["layer_name"]: row["scheme"] for row in pa.table(dataset).to_pylist()}
    assert rows == {
        row["layer_name"]: row["scheme"] for row in aq.plan(folder, **options).to_pylist()
    }
    if "role:embedding" in options.get("include", ()):
        assert rows["model.embed_tokens.weight"] == "int4"
        # The head with the same bytes follows it; loaders of this format take neither quantized.
        assert (rows["lm_head.weight"] == "int4") == same
        if to == "compressed-tensors":
            return
    if stays:
        aq.export(tmp_path / "out", tmp_path / "e", to=to)
    else:
        with pytest.warns(aq.QuantizationWarning, match="ties 'lm_head.weight' to 'model.embed"):
            aq.export(tmp_path / "out", tmp_path / "e", to=to)
    config = json.loads((tmp_path / "e/config.json").read_text())
    assert config["tie_word_embeddings"] is stays


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    names = ("m.q_proj.lora_A.weight", "m.q_proj.lora_B.weight")
    tensors = dict(zip(names, (w(8, 128), w(128, 8)), strict=True))
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"r": 8}')
    plan = aq.plan(folder).to_pylist()
    assert {(row["role"], row["scheme"]) for row in plan} == {("other", "none")}
    aq.quantize_checkpoint(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"it is an adapter.*--to safetensors"):
        aq.export(tmp_path / "out", tmp_path / "e")
    assert not (tmp_path / "e").exists()
    aq.export(tmp_path / "out", tmp_path / "e", to="safetensors")
    back = load_file(tmp_path / "e/adapter_model.safetensors")
    assert all(np.array_equal(back[name], value) for name, value in tensors.items())
    assert (tmp_path / "e/adapter_config.json").is_file()


def test_a_model_of_the_hub_comes_out_of_its_cache(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    cache = tmp_path / "hub"
    model = cache / "models--org--tiny-model"
    snapshot = model / "snapshots/0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(snapshot.name)
    save_file({"a.weight": w(64, 64)}, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    assert aq.scan(model).path == snapshot
    code = "import arrowquant as aq, sys; print(aq.scan(sys.argv[1]).layer_names)"
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}

    def scan(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, name]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )

    assert scan("org/tiny-model").stdout.strip() == "['a.weight']"
    missing = scan("org/other-model")
    assert missing.returncode != 0
    assert "hf download org/other-model" in missing.stderr.strip().splitlines()[-1]


def test_where_mapping_is_refused_files_are_read(tmp_path: Path) -> None:
    """A limit on address space, as schedulers set it: the file does not fit, its batches do."""
    path = tmp_path / "m.safetensors"
    tensors = {f"l{i}.weight": w(1024, 1024) for i in range(256)}
    save_file(tensors, path)
    code = (
        "import resource, sys, warnings\n"
        "import arrowquant as aq\n"
        "import pyarrow as pa\n"
        "aq.quantize({}, threads=1)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (700 << 20),) * 2)\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    scan = aq.scan(sys.argv[1])\n"
        "    rows = sum(batch.num_rows for batch in aq.quantize_stream(scan, threads=1))\n"
        "print(rows, *(str(w.message) for w in caught))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("256 ")
    assert "can't be mapped" in done.stdout
    shutil.rmtree(tmp_path)


def test_a_late_shard_may_bring_stacks_and_companions(tmp_path: Path) -> None:
    """The dataset has one schema, whatever is found later."""
    import ml_dtypes

    folder = tmp_path / "m"
    folder.mkdir()
    shard(folder, 1, 2)
    (folder / "config.json").write_text('{"model_type": "qwen3_5_moe", "num_experts": 4}')
    out = tmp_path / "out"
    aq.quantize_checkpoint(folder, out, continue_on_error=True)
    late = {
        "l2.mlp.experts.gate_up_proj": w(4, 96, 64),
        "l2.mlp.experts.down_proj": w(4, 64, 48),
        "l2.q_proj.weight": w(128, 128).astype(ml_dtypes.float8_e4m3fn),
        "l2.q_proj.weight_scale_inv": w(1, 1),
    }
    save_file(late, folder / "model-00002-of-00002.safetensors")
    dataset = aq.quantize_checkpoint(folder, out, retry_failed=True)
    assert dataset.failed.num_rows == 0
    rows = {row["layer_name"]: row for row in pa.table(aq.scan(out)).to_pylist()}
    assert rows["l2.mlp.experts.down_proj[3]"]["scheme"] == "int4"
    assert "l2.q_proj.weight_scale_inv" not in rows
    assert rows["l2.q_proj.weight"]["scheme"] == "fp8_e4m3"
    assert aq.verify(out, folder).ok
    aq.export(out, tmp_path / "e", to="safetensors")
    with safe_open(tmp_path / "e/model.safetensors", "np") as file:
        assert set(file.keys()) == {"l1.weight", *late} - {"l2.q_proj.weight_scale_inv"}


def test_the_same_bytes_of_another_shape_or_type_are_not_the_same(tmp_path: Path) -> None:
    import ml_dtypes

    path = tmp_path / "m.safetensors"
    bad = w(64, 64)
    bad[0, 0] = np.nan
    array = w(64, 128).astype(np.float16)
    save_file({"a.weight": array, "b.weight": bad}, path)
    aq.quantize_checkpoint(path, tmp_path / "out", continue_on_error=True)
    for other in (array.reshape(128, 64), array.view(ml_dtypes.bfloat16)):
        save_file({"a.weight": other, "b.weight": w(64, 64)}, path)
        with (
            pytest.warns(aq.QuantizationWarning),
            pytest.raises(ValueError, match=r"layer 'a.weight' of m.safetensors is not as it was"),
        ):
            aq.quantize_checkpoint(path, tmp_path / "out", retry_failed=True)


def test_tables_verify_as_they_are(tmp_path: Path) -> None:
    """Without shapes, with a name that comes twice, and with a file that has no rows."""
    folder = tmp_path / "m"
    folder.mkdir()
    data = pa.array([[0.5] * 256] * 3, pa.list_(pa.float32()))
    table = pa.table({"layer_name": ["a.weight", "a.weight", "b.weight"], "data": data})
    pa.parquet.write_table(table, folder / "p0.parquet")
    pa.parquet.write_table(table.slice(0, 0), folder / "p1.parquet")
    aq.quantize_checkpoint(folder, tmp_path / "out")
    found = aq.verify(tmp_path / "out", folder)
    assert found.ok, found.problems.to_pylist()
    assert found.compared == 3


def test_stale_shards_beside_new_ones_can_be_told_apart(tmp_path: Path) -> None:
    for number in (1, 2):
        shard(tmp_path, number, 2)
    for number in (1, 2, 3):
        shard(tmp_path, number, 3, f"n{number}.weight")
    with pytest.raises(aq.SeveralCheckpointsError) as caught:
        aq.scan(tmp_path)
    found = caught.value.checkpoints.to_pylist()
    layers = [aq.scan(tmp_path, variant=row["variant"]).layers for row in found]
    assert sorted(filter(None, layers)) == [2, 3]


def test_a_variant_is_chosen_among_files_of_several_kinds(tmp_path: Path) -> None:
    path = shard(tmp_path, 1, 1)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"l1.weight": path.name}}))
    save_file({"other.weight": w(64, 64)}, tmp_path / "consolidated.safetensors")
    np.savez(tmp_path / "extra.npz", x=w(64, 64))
    assert aq.scan(tmp_path, variant="consolidated").layer_names == ["other.weight"]
    assert aq.scan(tmp_path, variant="extra").layer_names == ["x"]


def test_what_is_printed_next_can_be_run(tmp_path: Path) -> None:
    folder = two(tmp_path / "m", "model.safetensors", "model.fp16.safetensors")
    bad = w(64, 64)
    bad[1, 1] = np.inf
    save_file({"l1.weight": bad}, folder / "model.fp16.safetensors")
    out = tmp_path / "out"
    options = ["--variant", "fp16", "--continue-on-error"]
    done = run("quantize", folder, "-o", out, *options, code=1)
    (following,) = [line for line in done.stdout.splitlines() if line.startswith("Next: ")]
    words = following.removeprefix("Next: arrowquant ").split()
    done = run(*words)
    (following,) = [line for line in done.stdout.splitlines() if line.startswith("Next: ")]
    assert "no problems" in run(*following.removeprefix("Next: arrowquant ").split()).stdout


def test_a_hub_model_is_resumed(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    model = tmp_path / "hub/models--org--tiny"
    snapshot = model / "snapshots/0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(snapshot.name)
    save_file({"a.weight": w(64, 64)}, snapshot / "model.safetensors")
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for words in (("quantize", "org/tiny", "-o", "out"),) * 2 + (
        ("verify", "out", "--against", "org/tiny"),
    ):
        command = [sys.executable, "-m", "arrowquant", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr


def test_blocks_of_gguf_have_no_place_in_an_export(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", gguf.quants.quantize(w(64, 64), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    aq.quantize_checkpoint(tmp_path / "m.gguf", tmp_path / "out")
    done = run(
        "export", tmp_path / "out", "-o", tmp_path / "e", "--to", "compressed-tensors", code=2
    )
    assert "scheme 'q8_0' is none of those that compressed-tensors has" in done.stderr
    assert not (tmp_path / "e").exists()
    run("export", tmp_path / "out", "-o", tmp_path / "e", "--to", "safetensors")
    (written,) = (tmp_path / "e").glob("*.safetensors")
    assert np.allclose(load_file(written)["blk.0.attn_q.weight"], w(64, 64), rtol=1e-2)
