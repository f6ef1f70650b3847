"""Files of every kind: NumPy, IPC streams, open files, lists, and what is wrong with them."""

from __future__ import annotations

import io
import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import arrowquant as aq
from conftest import binary_weights, float_row

GOOD = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
TABLE = binary_weights([float_row("a", GOOD), float_row("b", GOOD * 2)])


def _saved(kind: str) -> bytes:
    arrays = {"a.weight": GOOD, "t": np.asfortranarray(GOOD), "i": np.arange(3)}
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, GOOD)
    else:
        {"npz": np.savez, "compressed npz": np.savez_compressed}[kind](file, **arrays)
    return file.getvalue()


@given(
    kind=st.sampled_from(["npy", "npz", "compressed npz"]),
    wrong=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    length=st.none() | st.integers(0, 2000),
    mmap=st.booleans(),
)
def test_no_numpy_file_does_worse_than_an_error(
    kind: str, wrong: list[tuple[int, int]], length: int | None, mmap: bool
) -> None:
    content = bytearray(_saved(kind))
    for at, byte in wrong:
        if at < len(content):
            content[at] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("m.npy" if kind == "npy" else "m.npz")
        path.write_bytes(content[:length])
        try:
            scan = aq.scan(path, mmap=mmap)
            assert pa.table(scan).num_rows == scan.row_count
        except OSError as error:
            assert "m.np" in str(error)  # noqa: PT017 Either is right.


def test_a_numpy_header_that_lies_takes_no_memory(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.save(header, GOOD)
    lie = header.getvalue().replace(b"(2, 64), }         ", b"(2, 64000000000), }")
    assert lie != header.getvalue()
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("a.npy", lie)
    (tmp_path / "m.npy").write_bytes(lie)
    for name in ("m.npz", "m.npy"):
        with pytest.raises(OSError, match=r"claims 512,000,000,000 bytes"):
            aq.scan(tmp_path / name, mmap=False)


class TestFiles:
    def test_numpy_files(self, tmp_path: Path) -> None:
        arrays = {
            "a/b": GOOD,
            "t": np.asfortranarray(GOOD),
            "e": GOOD.astype(">f8"),
            "i": np.arange(3),
        }
        np.savez(tmp_path / "m.npz", **arrays)
        np.savez_compressed(tmp_path / "c.npz", **arrays)
        np.save(tmp_path / "one.npy", GOOD)
        for name in ("m.npz", "c.npz"):
            for mmap in (True, False):
                restored = aq.to_numpy(aq.scan(tmp_path / name, mmap=mmap))
                assert list(restored) == list(arrays)
                assert all(np.array_equal(restored[key], arrays[key]) for key in arrays)
        assert np.array_equal(aq.scan(tmp_path / "one.npy")["one"], GOOD)
        parts = pa.table(aq.scan(tmp_path / "one.npy", part_bytes=256))
        assert parts["part_count"].to_pylist() == [2, 2]
        assert np.array_equal(aq.to_numpy(parts)["one"], GOOD)

    def test_a_numpy_file_goes_through_a_job(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "m.npz", a=GOOD, b=GOOD[0])
        dataset = aq.quantize_checkpoint(tmp_path / "m.npz", tmp_path / "out")
        assert pa.table(dataset)["scheme"].to_pylist() == ["int4", "none"]
        assert aq.verify(tmp_path / "out", tmp_path / "m.npz").ok

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"x" * 100])
    def test_damaged_numpy_files_name_themselves(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.npz").write_bytes(content)
        with pytest.raises(OSError, match=r"m\.npz: is no file that np\.save"):
            aq.scan(tmp_path / "m.npz")

    @pytest.mark.parametrize("kind", ["safetensors", "parquet", "arrow", "npz", "npy"])
    def test_open_files_of_every_kind(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"m.{kind}"
        if kind == "safetensors":
            save_file({"m": GOOD}, path)
        elif kind == "npz":
            np.savez(path, m=GOOD)
        elif kind == "npy":
            np.save(path, GOOD)
        else:
            table = binary_weights([float_row("m", GOOD)])
            if kind == "parquet":
                pq.write_table(table, path)
            else:
                with pa.ipc.new_file(path, table.schema) as writer:
                    writer.write_table(table)
        name = "open file" if kind == "npy" else "m"
        in_memory = aq.scan(io.BytesIO(path.read_bytes()))
        assert np.array_equal(in_memory[name], GOOD)
        assert len(aq.quantize(in_memory)) == 1
        with path.open("rb") as file:
            assert np.array_equal(aq.scan(file)["m"], GOOD)

    def test_members_of_an_archive_are_told_apart(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "m.npz", **{"w": GOOD, "w.npy": GOOD * 2, "v": GOOD * 3})
        scan = aq.scan(tmp_path / "m.npz")
        assert scan.layer_names == ["w", "w.npy", "v"]
        data = pa.table(scan)["data"].to_pylist()
        assert data == [(GOOD * n).tobytes() for n in (1, 2, 3)]

    def test_a_damaged_member_costs_its_own_layer(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        arrays = {name: rng.normal(size=(64, 64)).astype("f4") for name in "abc"}
        np.savez(tmp_path / "m.npz", **arrays)
        content = bytearray((tmp_path / "m.npz").read_bytes())
        at = content.index(arrays["b"].tobytes()[:64])
        content[at + 100] ^= 255
        (tmp_path / "m.npz").write_bytes(content)
        with pytest.raises(OSError, match=r"m\.npz: layer 'b' can't be read"):
            aq.quantize(tmp_path / "m.npz")
        dataset = aq.quantize_checkpoint(
            tmp_path / "m.npz", tmp_path / "out", part_bytes=1 << 14, continue_on_error=True
        )
        assert pa.table(dataset)["layer_name"].to_pylist() == ["a", "c"]
        assert dataset.failed["error_code"].to_pylist() == ["source_unreadable"]

    def test_an_empty_open_file_is_not_one_on_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        pq.write_table(TABLE, "w.parquet")
        empty = io.BytesIO(b"")
        empty.name = "w.parquet"
        with pytest.raises(OSError, match=r"w\.parquet"):
            aq.quantize(aq.scan(empty))

    def test_a_compressed_open_file(self, tmp_path: Path) -> None:
        import gzip

        np.savez(tmp_path / "m.npz", m=GOOD)
        (tmp_path / "m.npz.gz").write_bytes(gzip.compress((tmp_path / "m.npz").read_bytes()))
        with gzip.open(tmp_path / "m.npz.gz") as file:
            assert np.array_equal(aq.scan(file)["m"], GOOD)

    def test_a_stream_that_was_cut_is_told(self, tmp_path: Path) -> None:
        table = binary_weights([float_row(f"l{i}", GOOD) for i in range(4)])
        path = tmp_path / "s.arrow"
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
        whole = path.read_bytes()
        path.write_bytes(whole[:-8])
        with pytest.raises(OSError, match=r"s\.arrow: .*batches may be missing"):
            aq.quantize(path)
        path.write_bytes(whole)
        dataset = aq.quantize_checkpoint(path, tmp_path / "out")
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table.slice(0, 2), max_chunksize=1)
        assert not aq.verify(dataset.path, path).ok

    def test_files_that_cannot_seek_or_are_text(self, tmp_path: Path) -> None:
        save_file({"m": GOOD}, tmp_path / "m.safetensors")
        with (tmp_path / "m.safetensors").open("r") as text, pytest.raises(TypeError, match="'rb'"):
            aq.scan(text)  # type: ignore[arg-type]
        read, write = os.pipe()
        os.close(write)
        with os.fdopen(read, "rb") as pipe, pytest.raises(TypeError, match=r"io\.BytesIO"):
            aq.scan(pipe)

    def test_a_home_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        save_file({"m": GOOD}, tmp_path / "m.safetensors")
        assert aq.scan("~/m.safetensors").layers == 1
        aq.write_parquet(aq.quantize("~/m.safetensors"), "~/m.parquet")
        assert (tmp_path / "m.parquet").exists()

    def test_lists_of_files(self, tmp_path: Path) -> None:
        for name in "ab":
            save_file({name: GOOD}, tmp_path / f"{name}.safetensors")
        paths = [tmp_path / "b.safetensors", str(tmp_path / "a.safetensors")]
        assert aq.scan(paths).layer_names == ["b", "a"]
        (tmp_path / "c").mkdir()
        save_file({"c": GOOD}, tmp_path / "c" / "a.safetensors")
        with pytest.raises(ValueError, match=r"two of the files are called a\.safetensors"):
            aq.scan([*paths, tmp_path / "c" / "a.safetensors"])

    def test_ipc_streams(self, tmp_path: Path) -> None:
        table = binary_weights([float_row(f"l{i}", GOOD * (i + 1)) for i in range(5)])
        with pa.ipc.new_stream(tmp_path / "s.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        for mmap in (True, False):
            scan = aq.scan(tmp_path / "s.arrow", mmap=mmap)
            assert [piece.rows for piece in scan.pieces()] == [2, 2, 1]
            assert pa.table(aq.quantize(scan))["layer_name"].to_pylist() == [
                f"l{i}" for i in range(5)
            ]
            back = scan.stretch(scan.key, 1, 1).read_all()["layer_name"].to_pylist()
            assert back == ["l2", "l3"]
        dataset = aq.quantize_checkpoint(tmp_path / "s.arrow", tmp_path / "out", part_bytes=600)
        assert pa.table(dataset).num_rows == 5
        assert aq.verify(tmp_path / "out", tmp_path / "s.arrow").ok

    def test_every_message_about_a_file_has_its_path(self, tmp_path: Path) -> None:
        table = binary_weights([float_row(f"l{i}", GOOD) for i in range(3)])
        pq.write_table(table, tmp_path / "good.parquet")
        whole = (tmp_path / "good.parquet").read_bytes()
        damaged = {
            "cut.parquet": whole[:-10],
            "pointer.parquet": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "nothing.arrow": b"",
            "noise.arrow": b"ARROW1\0\0" + b"\xff" * 100,
        }
        for name, content in damaged.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(OSError, match=re.escape(name)) as caught:
                aq.quantize(tmp_path / name)
            assert ("git lfs pull" in str(caught.value)) == name.startswith("pointer"), name
            assert "Traceback" not in str(caught.value)

    def test_lying_offsets_of_an_ipc_file(self, tmp_path: Path) -> None:
        table = binary_weights([float_row(f"l{i}", GOOD) for i in range(3)], pa.binary())
        with pa.ipc.new_file(tmp_path / "m.arrow", table.schema) as writer:
            writer.write_table(table)
        content = bytearray((tmp_path / "m.arrow").read_bytes())
        offsets = np.array([0, 512, 1024, 1536], np.int32).tobytes()
        at = content.index(offsets)
        content[at + 4 : at + 8] = (10**9).to_bytes(4, "little")
        (tmp_path / "m.arrow").write_bytes(content)
        with pytest.raises(OSError, match=r"m\.arrow: can't be read") as caught:
            aq.quantize(tmp_path / "m.arrow")
        assert "Traceback" not in str(caught.value)

    def test_a_directory_of_partitions_is_explained(self, tmp_path: Path) -> None:
        pq.write_to_dataset(
            TABLE.append_column("year", pa.array([1, 2])), tmp_path / "d", partition_cols=["year"]
        )
        with pytest.raises(ValueError, match=r"directories of them, such as year=1") as caught:
            aq.scan(tmp_path / "d")
        (code,) = re.findall(r"pyarrow\.dataset\.dataset\(.*?\)", str(caught.value))
        dataset = eval(code, {"pyarrow": __import__("pyarrow.dataset")})
        assert len(aq.quantize(dataset)) == 2

    def test_encrypted_parquet(self, tmp_path: Path) -> None:
        import base64

        import pyarrow.parquet.encryption as pe

        class Kms(pe.KmsClient):
            def __init__(self, _config: Any) -> None:
                super().__init__()

            def wrap_key(self, key: bytes, _master: str) -> bytes:
                return base64.b64encode(key)

            def unwrap_key(self, key: bytes, _master: str) -> bytes:
                return base64.b64decode(key)

        factory = pe.CryptoFactory(Kms)
        config = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": ["layer_name"]})
        properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
        path = tmp_path / "m.parquet"
        with pq.ParquetWriter(path, TABLE.schema, encryption_properties=properties) as writer:
            writer.write_table(TABLE)
        with pytest.raises(OSError, match=r"m\.parquet: is encrypted"):
            aq.quantize(path)


def test_layers_by_name(tmp_path: Path, checkpoint: Path) -> None:
    scan = aq.scan(checkpoint)
    name = "encoder.layer.3.output.dense.weight"
    assert name in scan
    assert scan[name].shape == (384, 1536)
    with pytest.raises(KeyError, match=r"Did you mean 'encoder.layer.3.output.dense.weight'"):
        scan["encoder.layer.3.output.dense.wight"]
    dataset = aq.quantize_checkpoint(checkpoint, tmp_path / "out", scheme="int8")
    assert np.abs(dataset[name] - scan[name]).max() < 0.05
    assert set(dataset.layer_names) == set(scan.layer_names)
    assert scan._ipython_key_completions_() == scan.layer_names
    with pytest.raises(ValueError, match="is a dataset"):
        aq.scan([tmp_path / "out"])


def test_a_layer_without_data_by_name(tmp_path: Path) -> None:
    table = TABLE.set_column(1, "data", pa.array([GOOD.tobytes(), None], pa.large_binary()))
    pq.write_table(table, tmp_path / "w.parquet")
    scan = aq.scan(tmp_path / "w.parquet")
    assert np.array_equal(scan["a"], GOOD)
    with pytest.raises(ValueError, match="layer 'b' has no data"):
        scan["b"]
