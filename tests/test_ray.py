"""`aq.ray.quantize_checkpoint`: one dataset by several workers. Needs `pip install '.[ray]'`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq

ray = pytest.importorskip("ray", reason="of the extra 'ray'")

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own are many

PART = 32 << 10


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(6)
    folder = tmp_path / "model"
    folder.mkdir()
    weight_map = {}
    for shard in range(2):
        name = f"model-0000{shard + 1}-of-00002.safetensors"
        tensors = {f"{shard}.{i}.weight": rng.normal(size=(64, 100)).astype("f4") for i in range(6)}
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def contents(dataset: Path) -> dict[str, str]:
    return {
        path.relative_to(dataset).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in dataset.rglob("*")
        if path.is_file() and path.name not in {"manifest.json", ".lock"}
    }


def spoil(model: Path, layer: str) -> None:
    path = model / f"model-0000{int(layer[0]) + 1}-of-00002.safetensors"
    tensors = load_file(path)
    tensors[layer][0, 5] = np.nan
    save_file(tensors, path)


def test_workers_know_what_layers_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    folder = tmp_path / "model"
    folder.mkdir()
    for shard, name in enumerate(("q_proj", "k_proj")):
        weight = rng.normal(size=(256, 128)).astype("f4") * np.float32(30**shard)
        path = folder / f"model-0000{shard + 1}-of-00002.safetensors"
        save_file({f"layers.0.self_attn.{name}.weight": weight}, path)
    options: Any = {"scheme": "nvfp4", "part_bytes": PART}
    dataset = aq.ray.quantize_checkpoint(folder, tmp_path / "ray", **options)
    assert len(set(pa.table(dataset)["tensor_scale"].to_pylist())) == 1
    aq.quantize_checkpoint(folder, tmp_path / "one", **options)
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def test_the_same_dataset_as_one_process_makes(model: Path, tmp_path: Path) -> None:
    spoil(model, "1.2.weight")
    heard: list[float | None] = []
    dataset = aq.ray.quantize_checkpoint(
        model,
        tmp_path / "ray",
        scheme="int8",
        part_bytes=PART,
        continue_on_error=True,
        progress=lambda _name, fraction: heard.append(fraction),
    )
    aq.quantize_checkpoint(
        model, tmp_path / "one", scheme="int8", part_bytes=PART, continue_on_error=True
    )
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
    assert dataset.failed["layer_name"].to_pylist() == ["1.2.weight"]
    assert aq.verify(tmp_path / "ray", model).ok
    assert heard[-1] == 1.0
    # Either goes on with what the other began.
    healed = aq.ray.quantize_checkpoint(model, tmp_path / "one", retry_failed=True, scheme="none")
    assert healed.failed.num_rows == 0
    assert aq.verify(tmp_path / "one", model).ok


def test_fail_fast_keeps_what_is_finished(model: Path, tmp_path: Path) -> None:
    spoil(model, "1.5.weight")
    with pytest.raises(aq.CheckpointStoppedError, match=r"stopped at layer 1.5.weight") as caught:
        aq.ray.quantize_checkpoint(model, tmp_path / "out", part_bytes=PART)
    assert caught.value.failed["layer_name"].to_pylist() == ["1.5.weight"]
    aq.ray.quantize_checkpoint(model, tmp_path / "out", part_bytes=PART, continue_on_error=True)
    assert aq.verify(tmp_path / "out", model).ok


def test_a_retry_that_stops_keeps_what_others_finished(model: Path, tmp_path: Path) -> None:
    layers = ["0.1.weight", "0.4.weight", "1.0.weight", "1.5.weight"]
    for layer in layers:
        spoil(model, layer)
    options = {"part_bytes": PART, "continue_on_error": True}
    aq.ray.quantize_checkpoint(model, tmp_path / "out", **options)
    plan = pa.table({"layer_name": layers[1:], "scheme": ["none"] * 3})
    with pytest.raises(aq.CheckpointStoppedError, match=r"0.1.weight"):
        aq.ray.quantize_checkpoint(model, tmp_path / "out", retry_failed=True, plan=plan)
    dataset = aq.scan(tmp_path / "out")
    assert isinstance(dataset, aq.Dataset)
    assert "0.1.weight" in dataset.failed["layer_name"].to_pylist()
    assert aq.verify(tmp_path / "out", model).ok
    healed = aq.ray.quantize_checkpoint(model, tmp_path / "out", retry_failed=True, scheme="none")
    assert healed.failed.num_rows == 0
    assert aq.verify(tmp_path / "out", model).ok
    assert not list((tmp_path / "out").glob(".stop*"))


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    big = {f"l{i}": np.ones((2048, 2048), np.float32) for i in range(20)}
    save_file(big, tmp_path / "big.safetensors")
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        out = tmp_path / "out"
        while not done.is_set() and not killed:
            # Its temporary file says that a worker is in the middle of a task.
            for path in out.glob("layers/.part-*.tmp"):
                for process in _holders(path):
                    if process != os.getpid():
                        os.kill(process, signal.SIGKILL)
                        killed.append(process)
                        return
            time.sleep(0.0005)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        aq.ray.quantize_checkpoint(
            tmp_path / "big.safetensors", tmp_path / "out", part_bytes=16 << 20
        )
    finally:
        done.set()
        killer.join()
    assert killed
    assert aq.verify(tmp_path / "out", tmp_path / "big.safetensors").ok
    assert not list((tmp_path / "out").rglob("*.tmp"))
    aq.quantize_checkpoint(tmp_path / "big.safetensors", tmp_path / "one", part_bytes=16 << 20)
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def _holders(path: Path) -> list[int]:
    """The processes that have a file open."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                held = any(fd.readlink() == path for fd in (process / "fd").iterdir())
            except OSError:
                continue
            if held:
                found.append(int(process.name))
    return found


def test_a_unit_takes_as_many_threads_as_cpus() -> None:
    def threads(_row: dict[str, Any]) -> dict[str, int]:
        from arrowquant import _core

        return {"threads": _core.thread_count(None)}

    for cpus in (1, 2):
        rows = ray.data.from_items([{"unit": 0}]).map(threads, num_cpus=cpus).take_all()
        assert rows == [{"threads": cpus}]
