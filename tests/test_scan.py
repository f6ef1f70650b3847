"""`aq.scan`: checkpoints as they lie on disk."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from conftest import binary_weights, float_row

COLUMNS = ["layer_name", "dtype", "shape", "data"]
COLUMNS += ["part_index", "part_count", "part_offset", "layer_shape", "source_file", "role"]
COLUMNS += ["keep_reason", "companion_of"]
COLUMNS += ["stack_name", "stack_index", "stack_shape", "stack_axis", "packed"]


@pytest.mark.parametrize("mmap", [True, False])
def test_safetensors_is_the_weights_relation(tmp_path: Path, mmap: bool) -> None:
    arrays: dict[str, Any] = {
        "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bf16": np.ones((4, 5), ml_dtypes.bfloat16),
        "i64": np.arange(3),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 7), np.float16),
    }
    save_file(arrays, tmp_path / "m.safetensors")
    scan = aq.scan(tmp_path / "m.safetensors", mmap=mmap)
    table = pa.table(scan)
    assert table.schema.names == COLUMNS == scan.schema.names
    rows = {row["layer_name"]: row for row in table.to_pylist()}
    assert {name: row["shape"] for name, row in rows.items()} == {
        name: list(array.shape) for name, array in arrays.items()
    }
    for name, array in arrays.items():
        row = rows[name]
        assert row["data"] == array.tobytes()
        assert (row["part_index"], row["part_count"], row["part_offset"]) == (0, 1, 0)
        assert row["layer_shape"] == row["shape"]
        assert row["source_file"] == "m.safetensors"
    assert pa.table(scan) == table, "a scan can be read again"
    back = aq.to_numpy(scan)
    assert all(back[name].dtype == array.dtype for name, array in arrays.items())


def _mappings(path: Path) -> list[tuple[int, int]]:
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            start, end = (int(address, 16) for address in line.split()[0].split("-"))
            spans.append((start, end))
    return spans


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_buffer_lies_inside_the_mapping(checkpoint: Path) -> None:
    reader = pa.RecordBatchReader.from_stream(aq.scan(checkpoint))
    batches = list(reader)
    assert len(batches) > 1
    spans = _mappings(checkpoint.resolve())
    raw = checkpoint.read_bytes()
    for batch in batches:
        data = batch["data"]
        values = data.buffers()[2]
        offsets = np.frombuffer(data.buffers()[1], np.int64)[data.offset :][: len(data) + 1]
        first, last = values.address + int(offsets[0]), values.address + int(offsets[-1])
        assert any(start <= first and last <= end for start, end in spans)
        assert ctypes.string_at(first, 16) in raw


_MEASURE = """
import sys, resource, pyarrow as pa, arrowquant as aq
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
small, big = sys.argv[1:]
pa.RecordBatchReader.from_stream(aq.scan(small)).read_all()
before = resident()
table = pa.RecordBatchReader.from_stream(aq.scan(big)).read_all()
assert table["data"].nbytes > 1_000_000_000
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_scanning_a_gigabyte_takes_no_memory(tmp_path: Path) -> None:
    save_file({"w": np.zeros(4, np.float32)}, tmp_path / "small.safetensors")
    size = 1 << 30
    half = {"dtype": "U8", "shape": [size // 2]}
    header = {
        "a": half | {"data_offsets": [0, size // 2]},
        "b": half | {"data_offsets": [size // 2, size]},
    }
    text = json.dumps(header).encode()
    big = tmp_path / "big.safetensors"
    with big.open("wb") as file:  # sparse: takes no disk either
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    run = [sys.executable, "-c", _MEASURE, str(tmp_path / "small.safetensors"), str(big)]
    out = subprocess.run(run, capture_output=True, text=True, check=True)
    assert int(out.stdout) < 8 << 20


def test_what_is_no_safetensors_file(tmp_path: Path) -> None:
    def header(text: bytes, length: int | None = None, tail: bytes = b"") -> bytes:
        return (len(text) if length is None else length).to_bytes(8, "little") + text + tail

    tensor = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    broken = {
        "empty": b"",
        "seven bytes": b"1234567",
        "length of 2^63": header(b"{}", 2**63),
        "length of 2^64-1": header(b"{}", 2**64 - 1),
        "beyond the end": header(b"{}", 100),
        "no JSON": header(b"{nonsense"),
        "no UTF-8": header(b'{"\xff":1}'),
        "cut short": header(tensor, tail=b"\0" * 7),
        "too long": header(tensor, tail=b"\0" * 9),
        "offsets that overlap": header(
            b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
            b'"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
            tail=b"\0" * 6,
        ),
        "a shape that overflows": header(
            b'{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,0]}}'
        ),
        "a name twice": header(
            b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
            b'"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
            tail=b"\0" * 4,
        ),
        "deep JSON": header(b'{"a":' + b"[" * 100_000),
    }
    for what, content in broken.items():
        path = tmp_path / f"{what}.safetensors"
        path.write_bytes(content)
        for mmap in (True, False):
            with pytest.raises(OSError, match=re.escape(f"{what}.safetensors: ")) as caught:
                aq.scan(path, mmap=mmap)
            assert "copied whole?" in str(caught.value), what


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        aq.scan(tmp_path / "none.safetensors")
    (tmp_path / "model.xyz").touch()
    with pytest.raises(ValueError, match=r"aq.scan reads .safetensors, .gguf, .parquet"):
        aq.scan(tmp_path / "model.xyz")


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    big = {f"l{i}": np.ones((1 << 23,), np.float32) for i in range(3)}
    path = tmp_path / "m.safetensors"
    save_file(big, path)
    reader = pa.RecordBatchReader.from_stream(aq.scan(path))
    reader.read_next_batch()
    save_file({"other": np.ones(3, np.float32)}, tmp_path / "new.safetensors")
    (tmp_path / "new.safetensors").replace(path)
    with pytest.raises(OSError, match=r"source_unreadable: .*m.safetensors changed"):
        reader.read_next_batch()


def test_a_source_that_changes_during_quantizing_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({f"l{i}": np.ones((1 << 24,), np.float32) for i in range(3)}, path)

    stream = iter(aq.quantize_stream(aq.scan(path)))
    assert next(stream)["layer_name"].to_pylist() == ["l0"]
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")
    with pytest.raises(OSError, match=r"source_unreadable: .*m.safetensors changed"):
        list(stream)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("mmap", [True, False])
def test_parquet_and_ipc(tmp_path: Path, kind: str, mmap: bool) -> None:
    table = binary_weights([float_row(f"l{i}", np.full((2, 40), i + 1.0)) for i in range(5)])
    table = table.append_column("block", pa.array(range(5)))
    path = tmp_path / f"w.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    scan = aq.scan(path, mmap=mmap)
    read = pa.table(scan)
    assert read.select(table.schema.names).equals(table)
    assert read["source_file"].to_pylist() == [path.name] * 5
    assert read["layer_shape"].to_pylist() == [[2, 40]] * 5
    assert [len(batch) for batch in scan] == [2, 2, 1]
    got = aq.quantize(scan).quantized
    assert got["data"].to_pylist() == aq.quantize(table).quantized["data"].to_pylist()
    assert aq.plan(scan)["scheme"].to_pylist() == ["int4"] * 5


def test_a_plan_of_parquet_reads_no_weights(tmp_path: Path) -> None:
    table = binary_weights([float_row("l", np.ones((2, 40)))])
    path = tmp_path / "w.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    fresh = bytearray(path.read_bytes())
    begin = column.data_page_offset
    fresh[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(fresh)
    with pytest.raises(OSError, match=r"(?i)page|thrift|parquet"):
        pa.table(aq.scan(path))
    assert aq.plan(aq.scan(path))["layer_name"].to_pylist() == ["l"]


def test_a_quantized_file_comes_as_it_was_written(tmp_path: Path, checkpoint: Path) -> None:
    aq.write_parquet(
        aq.quantize(aq.scan(checkpoint), plan=aq.plan(aq.scan(checkpoint))), tmp_path / "q.parquet"
    )
    scan = aq.scan(tmp_path / "q.parquet")
    assert "row_index" in scan.schema.names
    original = load_file(checkpoint)
    restored = aq.to_numpy(aq.dequantize(scan))
    assert list(restored) == pa.table(aq.scan(checkpoint))["layer_name"].to_pylist()
    assert np.array_equal(restored["embeddings.position_ids"], original["embeddings.position_ids"])
