"""How much columns matter: tables, llama.cpp's importance matrices, and jobs that use them."""

from __future__ import annotations

import contextlib
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from conftest import run

gguf = pytest.importorskip("gguf")

Array = np.ndarray[Any, Any]
PAYLOAD = ["data", "scales", "zero_points", "biases"]


def table_of(named: dict[str, Array | None]) -> pa.Table:
    values = [None if x is None else x.tolist() for x in named.values()]
    return pa.table(
        {"layer_name": list(named), "importance": pa.array(values, pa.list_(pa.float32()))}
    )


def payload(relation: Any) -> dict[str, dict[str, Any]]:
    table = pa.table(relation)
    rows = table.select(["layer_name", "search", *PAYLOAD]).to_pylist()
    return {row.pop("layer_name"): row for row in rows}


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A small Llama of two blocks, as Hugging Face names it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    tensors = {"model.norm.weight": np.ones(128, np.float32)}
    for block in range(2):
        for name, shape in {
            "self_attn.q_proj": (128, 128),
            "self_attn.o_proj": (128, 128),
            "mlp.down_proj": (128, 256),
        }.items():
            key = f"model.layers.{block}.{name}.weight"
            tensors[key] = rng.standard_normal(shape).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def importance(rng: np.random.Generator) -> dict[str, Array]:
    widths = {"self_attn.q_proj": 128, "self_attn.o_proj": 128, "mlp.down_proj": 256}
    return {
        f"model.layers.{block}.{name}.weight": np.exp(2 * rng.standard_normal(width)).astype("f4")
        for block in range(2)
        for name, width in widths.items()
    }


def test_a_table_is_the_column(model: Path, importance: dict[str, Array]) -> None:
    weights = pa.table(aq.scan(model))
    lists = [importance.get(name) for name in weights["layer_name"].to_pylist()]
    column = pa.array([None if x is None else x.tolist() for x in lists], pa.list_(pa.float64()))
    options: dict[str, Any] = {"scheme": "mlx4", "search": "weighted"}
    keep = pa.table({"layer_name": ["model.norm.weight"], "scheme": ["none"]})
    wanted = aq.quantize(
        weights.append_column("importance", column), plan=keep, threads=1, **options
    )
    for table in (table_of(importance), table_of(importance).to_reader()):
        found = aq.quantize(weights, plan=keep, importance=table, threads=2, **options)
        assert payload(found.quantized) == payload(wanted.quantized)
    stream = aq.quantize_stream(weights, plan=keep, importance=table_of(importance), **options)
    assert payload(pa.table(stream).select(wanted.quantized.schema.names)) == payload(
        wanted.quantized
    )
    # A row's own column comes first, and what nobody knows is weighed by itself.
    first = next(iter(importance))
    other = table_of({name: np.ones_like(x) for name, x in importance.items() if name != first})
    mixed = aq.quantize(weights, plan=keep, importance=other, **options)
    alone = aq.quantize(weights, plan=keep, **options)
    assert payload(mixed.quantized)[first] == payload(alone.quantized)[first]
    assert payload(mixed.quantized) != payload(alone.quantized)


def test_a_job_stops_resumes_and_has_the_same_bytes(
    model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    pq.write_table(table_of(importance), tmp_path / "i.parquet")
    options: dict[str, Any] = {"scheme": "int4", "search": "weighted", "part_bytes": 32 << 10}
    options["importance"] = tmp_path / "i.parquet"
    whole = aq.quantize_checkpoint(model, tmp_path / "whole", **options)
    assert {row["search"] for row in payload(whole).values()} == {"weighted", None}

    def stop(name: str, _: float) -> None:
        if name.startswith("model.layers.1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aq.quantize_checkpoint(model, tmp_path / "d", progress=stop, **options)
    other = options | {"importance": table_of({n: np.ones_like(x) for n, x in importance.items()})}
    with pytest.raises(ValueError, match="importance: another table there than here"):
        aq.quantize_checkpoint(model, tmp_path / "d", **other)
    # The same numbers are the same table, wherever they are.
    again = options | {"importance": table_of(dict(reversed(importance.items())))}
    resumed = aq.quantize_checkpoint(model, tmp_path / "d", **again)
    assert payload(resumed) == payload(whole)


def test_layers_that_the_table_lacks_are_named(
    model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    first, *others = importance
    options: dict[str, Any] = {"scheme": "int4", "search": "weighted", "overwrite": True}
    some = table_of({name: importance[name] for name in others})
    with pytest.warns(aq.QuantizationWarning, match=rf"lacks 1 of 6 layers.*: '{first}'\.$"):
        found = aq.quantize_checkpoint(model, tmp_path / "d", importance=some, **options)
    alone = aq.quantize_checkpoint(model, tmp_path / "w", **options)
    assert payload(found)[first] == payload(alone)[first]
    # Another job in its place, without a table, leaves none.
    assert (tmp_path / "d" / "importance.parquet").exists()
    aq.quantize_checkpoint(model, tmp_path / "d", scheme="int8", overwrite=True)
    assert not (tmp_path / "d" / "importance.parquet").exists()
    pq.write_table(some, tmp_path / "some.parquet")
    # So does a call, at its own line; a column of the weights themselves is not looked through.
    for call in (aq.quantize, aq.quantize_stream):
        with pytest.warns(
            aq.QuantizationWarning, match=rf"lacks 1 of 6 layers.*: '{first}'\.$"
        ) as told:
            call(model, scheme="int4", importance=some)
        assert [warning.filename for warning in told] == [__file__]
    said = ("--scheme", "int4", "--importance", tmp_path / "some.parquet")
    done = run("quantize", model, "-o", tmp_path / "f.parquet", *said)
    assert f"warning: {tmp_path / 'some.parquet'}: lacks 1 of 6 layers" in done.stderr


def test_parts_of_layers_know_their_columns(
    model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"scheme": "int4", "search": "weighted"}
    options["importance"] = table_of(importance)
    whole = aq.quantize_checkpoint(model, tmp_path / "whole", **options)
    parts = aq.quantize_checkpoint(model, tmp_path / "parts", part_bytes=16 << 10, **options)
    assert len(parts.outline()) > len(whole.outline())
    one, other = (aq.to_numpy(aq.dequantize(relation)) for relation in (whole, parts))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], name)


@pytest.mark.parametrize("part_bytes", [16 << 10, 5 << 10])
def test_parts_are_weighed_as_their_whole_layer(
    model: Path, tmp_path: Path, part_bytes: int
) -> None:
    options: dict[str, Any] = {"scheme": "mlx4", "search": "weighted"}
    whole = aq.to_numpy(aq.dequantize(aq.quantize(model, **options)))
    source = aq.scan(model, part_bytes=part_bytes)
    dataset = aq.quantize_checkpoint(model, tmp_path / "d", part_bytes=part_bytes, **options)
    assert any(count > 1 for count in source.outline()["part_count"].to_pylist())
    streamed = aq.quantize_stream(source, **options)
    for parts in (aq.quantize(source, **options), dataset, streamed):
        found = aq.to_numpy(aq.dequantize(parts))
        for name, array in whole.items():
            np.testing.assert_array_equal(found[name], array, name)
    # Rows of a table, of which nothing else is known, have their own.
    alone = aq.to_numpy(aq.dequantize(aq.quantize(pa.table(source), **options)))
    assert any(not np.array_equal(alone[name], array) for name, array in whole.items())


def test_pieces_of_rows_are_not_taken_for_columns() -> None:
    """Whatever their layer is said to be: no room is made for columns that nobody has."""
    rows = {
        "layer_name": ["a", "b"],
        "data": [np.ones(64, np.float32).tobytes()] * 2,
        "dtype": ["F32"] * 2,
        "shape": [[1, 64]] * 2,
        "part_index": pa.array([0, 0], pa.int32()),
        "part_count": pa.array([2, 2], pa.int32()),
        "part_offset": [0, 0],
        "layer_shape": [[2, 128], [2, 1 << 50]],
    }
    result = aq.quantize(pa.table(rows), scheme="mlx4", search="weighted", continue_on_error=True)
    alike = aq.quantize(pa.table(rows), scheme="mlx4", search="mse")
    assert result.quantized["data"].to_pylist() == alike.quantized["data"].to_pylist()
    assert result.failed.num_rows == 0


def test_a_table_with_names_of_files_and_counts_of_its_own(model: Path, tmp_path: Path) -> None:
    """Columns that say something else are carried like any other."""
    rows = pa.table(aq.scan(model)).select(["layer_name", "dtype", "shape", "data"])
    options: dict[str, Any] = {"scheme": "mlx4", "search": "weighted"}
    whole = aq.to_numpy(aq.dequantize(aq.quantize(rows, **options)))
    own = rows.append_column("source_file", pa.array([f"{n}.bin" for n in range(len(rows))]))
    pq.write_table(own, tmp_path / "own.parquet")
    dataset = aq.quantize_checkpoint(
        tmp_path / "own.parquet", tmp_path / "d", part_bytes=16 << 10, **options
    )
    for name, array in whole.items():
        np.testing.assert_array_equal(aq.to_numpy(aq.dequantize(dataset))[name], array, name)
    pq.write_table(
        rows.append_column("part_count", pa.array(["two"] * len(rows))), tmp_path / "t.parquet"
    )
    for scheme in ("mlx4", "nvfp4"):
        found = aq.quantize(tmp_path / "t.parquet", scheme=scheme)
        assert found.quantized["part_count"].to_pylist() == ["two"] * len(rows)


def test_layers_of_one_name_do_not_weigh_each_other(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    arrays = [rng.lognormal(size=(512, 128)) * rng.standard_normal((512, 128)) for _ in range(2)]
    rows = {
        "layer_name": ["a", "a"],
        "dtype": ["F32", "F32"],
        "shape": [[512, 128]] * 2,
        "data": [array.astype(np.float32).tobytes() for array in arrays],
    }
    pq.write_table(pa.table(rows), tmp_path / "twice.parquet")
    parts = aq.scan(tmp_path / "twice.parquet", part_bytes=128 << 10)
    found = aq.quantize(parts, scheme="mlx4").quantized["data"].to_pylist()
    alone = aq.quantize(pa.table(parts), scheme="mlx4").quantized["data"].to_pylist()
    assert len(found) > 2
    assert found == alone


@pytest.mark.parametrize("rows", [1000, 4099])
def test_columns_of_equal_weights_say_nothing_however_they_are_cut(
    rows: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    array = rng.standard_normal((rows, 64)).astype(np.float32)
    array[:, ::2] = rng.standard_normal(32).astype(np.float32)
    save_file({"a.weight": array}, tmp_path / "m.safetensors")
    whole = aq.quantize(tmp_path / "m.safetensors", scheme="mlx4")
    joined = b"".join(whole.quantized["data"].to_pylist())
    for part_bytes in (32 << 10, 96 << 10, 640 << 10):
        source = aq.scan(tmp_path / "m.safetensors", part_bytes=part_bytes)
        parts = aq.quantize(source, scheme="mlx4").quantized["data"].to_pylist()
        assert b"".join(parts) == joined


def test_what_failed_is_done_again_with_what_the_job_had(
    model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    bad = "model.layers.0.mlp.down_proj.weight"
    short = importance | {bad: importance[bad][:255]}
    dataset = aq.quantize_checkpoint(
        model,
        tmp_path / "d",
        scheme="q4_0",
        search="weighted",
        importance=table_of(short),
        continue_on_error=True,
    )
    (failed,) = dataset.failed.to_pylist()
    assert (failed["layer_name"], failed["error_code"]) == (bad, "invalid_fact")
    assert "importance has 255 numbers, and the layer has 256 columns" in failed["error_message"]
    # As before: it fails as before.
    dataset = aq.quantize_checkpoint(
        model, tmp_path / "d", retry_failed=True, continue_on_error=True
    )
    assert dataset.failed["layer_name"].to_pylist() == [bad]
    shutil.copytree(tmp_path / "d", tmp_path / "n")
    without = aq.quantize_checkpoint(model, tmp_path / "n", retry_failed=True, importance="none")
    alone = aq.quantize_checkpoint(model, tmp_path / "a", scheme="q4_0", search="weighted")
    assert not without.failed.num_rows
    assert payload(without)[bad] == payload(alone)[bad]
    dataset = aq.quantize_checkpoint(
        model, tmp_path / "d", retry_failed=True, importance=table_of(importance)
    )
    assert not dataset.failed.num_rows
    wanted = aq.quantize_checkpoint(
        model, tmp_path / "w", scheme="q4_0", search="weighted", importance=table_of(importance)
    )
    assert payload(dataset) == payload(wanted)


def test_what_is_no_importance_of_the_model(
    model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"scheme": "int4", "search": "weighted"}
    other = table_of({f"other.{name}": x for name, x in importance.items()})
    with pytest.raises(ValueError, match=r"has none of the model's layers. It has 'other\.model"):
        aq.quantize_checkpoint(model, tmp_path / "d", importance=other, **options)
    assert not (tmp_path / "d").exists()
    with pytest.raises(ValueError, match="is for a weighted search, and search is 'mse'"):
        aq.quantize_checkpoint(
            model, tmp_path / "d", scheme="int4", search="mse", importance=table_of(importance)
        )
    for table, error, why in [
        (tmp_path / "none.parquet", FileNotFoundError, "no such file"),
        (model / "config.json", ValueError, r"tables of importance are \.parquet"),
        (pa.table({"layer_name": ["a"]}), ValueError, "has no column importance"),
        (pa.table({"layer_name": ["a"], "importance": [1.0]}), TypeError, "a list of"),
        (
            table_of({"a": np.ones(3)}).take([0, 0]),
            ValueError,
            "'a' comes twice, but names must be unique in tables of importance",
        ),
    ]:
        with pytest.raises(error, match=why):
            aq.quantize_checkpoint(model, tmp_path / "d", importance=table, **options)


def test_a_frame_is_a_table(model: Path, importance: dict[str, Array], tmp_path: Path) -> None:
    table = table_of(importance)
    wanted = payload(aq.quantize_checkpoint(model, tmp_path / "w", importance=table))
    for name, frame in {"pandas": table.to_pandas(), "polars": pl.from_arrow(table)}.items():
        found = aq.quantize_checkpoint(model, tmp_path / name, importance=frame)
        assert payload(found) == wanted


def test_a_table_that_nothing_would_use_is_refused(
    model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    table = table_of(importance)
    for scheme in ("fp8_e4m3", "nf4_dq", "none"):
        with pytest.raises(ValueError, match=f"weighted search, which '{scheme}' does not have"):
            aq.quantize_checkpoint(model, tmp_path / "d", scheme=scheme, importance="auto")
        with pytest.raises(ValueError, match=f"weighted search, which '{scheme}' does not have"):
            aq.quantize({"a": np.ones((2, 64), np.float32)}, scheme=scheme, importance=table)
    mlx4 = pa.table({"layer_name": ["*norm*", "*"], "scheme": ["none", "mlx4"]})
    off = mlx4.append_column("search", pa.array([None, "mse"]))
    rules = pa.table({"layer_name": ["*norm*", "*"], "scheme": ["none", "int4"]})
    for unused in (rules, off):
        with pytest.raises(ValueError, match="and the plan names none"):
            aq.quantize_checkpoint(model, tmp_path / "d", plan=unused, importance=table)
    # Its default is to weigh errors.
    aq.quantize_checkpoint(model, tmp_path / "mlx4", plan=mlx4, importance=table)
    rules = rules.append_column("search", pa.array([None, "weighted"]))
    found = aq.quantize_checkpoint(model, tmp_path / "d", plan=rules, importance=table)
    assert payload(found) == payload(
        aq.quantize_checkpoint(model, tmp_path / "w", scheme="int4", importance=table)
    )


@pytest.mark.parametrize("target", ["mlx", "vllm"])
def test_a_runtime_uses_a_table_beside_a_plan(
    target: Any, model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    rules = pa.table({"layer_name": ["*norm*"], "scheme": ["none"]})
    options: dict[str, Any] = {"target": target, "dataset": tmp_path / "d"}
    table = table_of(importance)
    aq.quantize_checkpoint(model, tmp_path / "o", plan=rules, importance=table, **options)
    found = payload(aq.scan(tmp_path / "d"))
    assert {row["search"] for row in found.values()} == {"weighted", None}
    options["dataset"] = tmp_path / "without"
    aq.quantize_checkpoint(model, tmp_path / "p", plan=rules, **options)
    assert payload(aq.scan(tmp_path / "without")) != found


@pytest.mark.filterwarnings("ignore:.*changed since the job began")
def test_a_retry_uses_the_table_that_it_is_given(
    model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    path, table = model / "model.safetensors", table_of(importance)
    tensors = load_file(path)
    first = next(iter(importance))
    tensors[first][0, 0] = np.nan
    save_file(tensors, path)
    out = tmp_path / "d"
    aq.quantize_checkpoint(model, out, scheme="int4", continue_on_error=True)
    tensors[first][0, 0] = 1
    save_file(tensors, path)
    found = aq.quantize_checkpoint(model, out, importance=table, retry_failed=True)
    wanted = aq.quantize_checkpoint(model, tmp_path / "w", scheme="int4", importance=table)
    assert payload(found)[first] == payload(wanted)[first]
    assert payload(found)[first]["search"] == "weighted"
    with pytest.raises(ValueError, match="is for a weighted search, which 'nf4_dq' does not have"):
        aq.quantize_checkpoint(model, out, scheme="nf4_dq", importance=table, retry_failed=True)


def test_a_job_that_was_killed_as_it_began_begins_again(
    model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    table = table_of(importance)
    wanted = aq.quantize_checkpoint(model, tmp_path / "w", importance=table)
    # Its table is written before its manifest.
    (tmp_path / "d").mkdir()
    shutil.copy(tmp_path / "w" / "importance.parquet", tmp_path / "d")
    assert payload(aq.quantize_checkpoint(model, tmp_path / "d", importance=table)) == payload(
        wanted
    )


def test_on_the_command_line(model: Path, importance: dict[str, Array], tmp_path: Path) -> None:
    pq.write_table(table_of(importance), tmp_path / "i.parquet")
    said = ("--scheme", "nf4", "--search", "weighted", "--importance", tmp_path / "i.parquet")
    for output in ("d", "f.parquet"):
        run("quantize", model, "-o", tmp_path / output, *said)
    wanted = aq.quantize_checkpoint(
        model,
        tmp_path / "w",
        scheme="nf4",
        search="weighted",
        importance=tmp_path / "i.parquet",
    )
    assert payload(aq.scan(tmp_path / "d")) == payload(wanted)
    assert payload(pq.read_table(tmp_path / "f.parquet")) == payload(wanted)


def imatrix_gguf(path: Path, entries: dict[str, tuple[Array, Array]]) -> None:
    """A file as llama.cpp writes it: sums, `[matrices, columns]`, and counts of tokens."""
    writer = gguf.GGUFWriter(path, "any")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 2)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", sums.astype(np.float32))
        writer.add_tensor(f"{name}.counts", counts.astype(np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_an_importance_matrix_of_llama_cpp(tmp_path: Path, rng: np.random.Generator) -> None:
    sums, experts = rng.random((1, 64)) * 100, rng.random((3, 32)) * 100
    entries = {
        "blk.0.attn_q.weight": (sums, np.array([1024])),
        "blk.0.ffn_gate_exps.weight": (experts, np.array([10, 0, 5])),
    }
    imatrix_gguf(tmp_path / "i.gguf", entries)
    rows = {row["layer_name"]: row for row in aq.read_imatrix(tmp_path / "i.gguf").to_pylist()}
    row = rows["blk.0.attn_q.weight"]
    np.testing.assert_allclose(row["importance"], sums[0] / 1024, rtol=1e-6)
    assert (row["tokens"], row["source"]) == (1024, "i.gguf")
    stack = [rows[f"blk.0.ffn_gate_exps.weight[{at}]"] for at in range(3)]
    assert [row["tokens"] for row in stack] == [10, 0, 5]
    assert stack[1]["importance"] is None
    np.testing.assert_allclose(stack[2]["importance"], experts[2] / 5, rtol=1e-6)
    assert len(rows) == 4


def imatrix_dat(entries: dict[str, tuple[int, Array]]) -> bytes:
    data = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", calls, len(values)) + (values * calls).astype("<f4").tobytes()
    return data + struct.pack("<ii", 7, 4) + b"text"


def test_an_older_importance_matrix(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.random(64)
    path = tmp_path / "imatrix.dat"
    path.write_bytes(
        imatrix_dat({"blk.0.attn_q.weight": (7, values), "output.weight": (0, values)})
    )
    first, second = aq.read_imatrix(path).to_pylist()
    np.testing.assert_allclose(first["importance"], values, rtol=1e-6)
    assert (first["layer_name"], first["tokens"]) == ("blk.0.attn_q.weight", 7)
    assert (second["layer_name"], second["importance"]) == ("output.weight", None)


@given(data=st.data())
def test_a_damaged_importance_matrix_is_an_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(imatrix_dat({"blk.0.attn_q.weight": (7, np.ones(8))}))
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    if cut:
        cut[data.draw(st.integers(0, len(cut) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("i") / "i.dat"
    path.write_bytes(cut)
    with contextlib.suppress(ValueError):
        assert aq.read_imatrix(path).num_rows <= 1


@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_what_is_written_is_read(suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    named: dict[str, Array | None] = {
        "blk.0.attn_q.weight": rng.random(64),
        "blk.0.ffn_up_exps.weight[1]": rng.random(32),
        "blk.0.ffn_up_exps.weight[0]": None,
    }
    table = table_of(named).append_column("tokens", pa.array([100, 3, 0]))
    path = tmp_path / f"i.{suffix}"
    assert aq.write_imatrix(table, path) == path
    rows = {row["layer_name"]: row for row in aq.read_imatrix(path).to_pylist()}
    query = rows["blk.0.attn_q.weight"]["importance"]
    np.testing.assert_allclose(query, named["blk.0.attn_q.weight"], rtol=1e-6)
    up = named["blk.0.ffn_up_exps.weight[1]"]
    if suffix == "gguf":
        np.testing.assert_allclose(rows["blk.0.ffn_up_exps.weight[1]"]["importance"], up, rtol=1e-6)
        assert rows["blk.0.ffn_up_exps.weight[0]"]["importance"] is None
        assert rows["blk.0.attn_q.weight"]["tokens"] == 100
    else:
        # The file does not say how many matrices there are; one without tokens has the mean.
        found = np.reshape(rows["blk.0.ffn_up_exps.weight"]["importance"], (2, 32))
        np.testing.assert_allclose(found, [up, up], rtol=1e-6)
    with pytest.raises(FileExistsError, match="exists"):
        aq.write_imatrix(table, path)
    aq.write_imatrix(table, path, overwrite=True)
    with pytest.raises(ValueError, match="not all"):
        aq.write_imatrix(table.slice(0, 2), tmp_path / f"j.{suffix}")
    assert sorted(x.name for x in tmp_path.iterdir()) == [path.name]


def test_what_is_no_importance_matrix(tmp_path: Path, model: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("output.weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"m\.gguf: is a GGUF file, but no importance matrix"):
        aq.read_imatrix(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match="is no importance matrix"):
        aq.read_imatrix(model / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"):
        aq.read_imatrix(tmp_path / "none.dat")


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ([-1.0, 1.0], "is -1.0 at column 0"),
        ([1.0, float("nan")], "is nan at column 1"),
        ([None, 1.0], "is null at column 0"),
        ([1e38, 3e38], "is 1e\\+38 at column 0"),
        ([], "has no numbers"),
    ],
)
def test_what_llama_cpp_does_not_take_is_not_written(
    numbers: list[float | None], why: str, tmp_path: Path
) -> None:
    table = pa.table(
        {
            "layer_name": ["blk.0.ffn_up.weight"],
            "importance": pa.array([numbers], pa.list_(pa.float64())),
            "tokens": [1000],
        }
    )
    with pytest.raises(ValueError, match=f"importance of 'blk.0.ffn_up.weight' {why}"):
        aq.write_imatrix(table, tmp_path / "i.dat")


def test_names_of_either_side_become_llama_cpps(tmp_path: Path) -> None:
    theirs, own = "model.layers.0.mlp.up_proj.weight", "blk.1.ffn_up.weight"
    table = pa.table(
        {
            "layer_name": [theirs, own, "output.weight", "blk.2.ffn_up.weight"],
            "importance": [[1.0, 2.0], [3.0, 4.0], [5.0], None],
        }
    )
    found = aq.read_imatrix(aq.write_imatrix(table, tmp_path / "i.dat"))
    names = ["blk.0.ffn_up.weight", own, "output.weight"]
    assert found["layer_name"].to_pylist() == names
    twice = pa.table({"layer_name": [theirs, names[0]], "importance": [[1.0], [1.0]]})
    with pytest.raises(ValueError, match="twice"):
        aq.write_imatrix(twice, tmp_path / "j.dat")
    nameless = pa.table({"layer_name": [None, own], "importance": [[1.0], [1.0]]})
    with pytest.raises(ValueError, match="no layer_name in row 0"):
        aq.write_imatrix(nameless, tmp_path / "j.dat")


def test_either_side_s_names_are_known(
    model: Path, importance: dict[str, Array], tmp_path: Path
) -> None:
    theirs = {
        name.replace("model.layers.", "blk.")
        .replace("self_attn.q_proj", "attn_q")
        .replace("self_attn.o_proj", "attn_output")
        .replace("mlp.down_proj", "ffn_down"): x
        for name, x in importance.items()
    }
    options: dict[str, Any] = {"scheme": "q4_k", "search": "weighted", "fallback": ["q4_0"]}
    wanted = aq.quantize_checkpoint(
        model, tmp_path / "w", importance=table_of(importance), **options
    )
    aq.write_imatrix(table_of(importance), tmp_path / "i.gguf")
    assert set(aq.read_imatrix(tmp_path / "i.gguf")["layer_name"].to_pylist()) == set(theirs)
    with pytest.raises(ValueError, match=r"llama\.cpp has no name for 'unheard.of'"):
        aq.write_imatrix(table_of({"unheard.of": np.ones(3)}), tmp_path / "j.dat")
    found = aq.quantize_checkpoint(model, tmp_path / "d", importance=tmp_path / "i.gguf", **options)
    assert payload(found) == payload(wanted)
    # And the other way round: a GGUF model with a table of Hugging Face's names.
    arrays = {name: aq.scan(model)[name] for name in importance}
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(2)
    for (_, array), name in zip(arrays.items(), theirs, strict=True):
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = aq.quantize_checkpoint(
        tmp_path / "m.gguf", tmp_path / "g", importance=table_of(importance), **options
    )
    rows, own = payload(found), payload(wanted)
    for name, other in zip(theirs, importance, strict=True):
        assert rows[name] == own[other]


def test_a_stack_s_numbers_are_its_matrices(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.standard_normal((3, 32, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.ffn_up_exps.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    values = np.exp(2 * rng.standard_normal((3, 64))).astype(np.float32)
    (tmp_path / "i.dat").write_bytes(imatrix_dat({"blk.0.ffn_up_exps.weight": (1, values.ravel())}))
    options: dict[str, Any] = {"scheme": "q4_0", "search": "weighted"}
    source = tmp_path / "m.gguf"
    found = aq.quantize_checkpoint(source, tmp_path / "d", importance=tmp_path / "i.dat", **options)
    names = [row["layer_name"] for row in aq.scan(source).outline().to_pylist()]
    assert names == [f"blk.0.ffn_up_exps.weight[{at}]" for at in range(3)]
    rows = payload(found)
    for at, name in enumerate(names):
        alone = aq.quantize({name: array[at]}, importance=table_of({name: values[at]}), **options)
        assert payload(alone.quantized)[name] == rows[name]


def test_a_whole_layer_is_not_weighed_as_one_in_parts_of_its_name(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    large = (rng.lognormal(size=128) * rng.standard_normal((512, 128))).astype(np.float32)
    small = (rng.lognormal(size=128) * rng.standard_normal((64, 128))).astype(np.float32)
    rows = {
        "layer_name": ["a", "a"],
        "dtype": ["F32", "F32"],
        "shape": [[512, 128], [64, 128]],
        "data": [large.tobytes(), small.tobytes()],
    }
    pq.write_table(pa.table(rows), tmp_path / "twice.parquet")
    source = aq.scan(tmp_path / "twice.parquet", part_bytes=64 << 10)
    found = aq.quantize(source, scheme="mlx4").quantized["data"].to_pylist()
    (alone,) = aq.quantize({"a": small}, scheme="mlx4").quantized["data"].to_pylist()
    assert len(found) > 2
    assert found[-1] == alone
