"""What is written: nothing is replaced unasked, and nothing half-written is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from conftest import run

GOOD = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": GOOD, "b": GOOD * 2}, path)
    return path


@pytest.fixture
def quantized(tmp_path: Path, model: Path) -> Path:
    aq.write_parquet(aq.quantize(model), tmp_path / "q.parquet")
    return tmp_path / "q.parquet"


VERBS: dict[str, tuple[str, Callable[[Path, Path, Path, bool], object]]] = {
    "quantize": (
        "x.parquet",
        lambda m, _q, out, over: run("quantize", m, "-o", out, *(["--overwrite"] * over)),
    ),
    "dequantize": (
        "x.safetensors",
        lambda _m, q, out, over: run("dequantize", q, "-o", out, *(["--overwrite"] * over)),
    ),
    "plan": (
        "x.csv",
        lambda m, _q, out, over: run("plan", m, "-o", out, *(["--overwrite"] * over)),
    ),
    "write_parquet": (
        "x.parquet",
        lambda m, _q, out, over: aq.write_parquet(aq.quantize(m), out, overwrite=over),
    ),
    "write_safetensors": (
        "x.safetensors",
        lambda m, _q, out, over: aq.write_safetensors(aq.scan(m), out, overwrite=over),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("what", ["a text file", "somebody's table", "a broken link"])
def test_nothing_is_replaced_unasked(
    verb: str, what: str, model: Path, quantized: Path, tmp_path: Path
) -> None:
    name, call = VERBS[verb]
    out = tmp_path / name
    if what == "a text file":
        out.write_text("keep me")
    elif what == "somebody's table":
        pq.write_table(pa.table({"mine": [1, 2, 3]}), out)
    else:
        out.symlink_to(tmp_path / "elsewhere")
    before = None if what == "a broken link" else out.read_bytes()
    with pytest.raises((FileExistsError, AssertionError), match=r"exists.*--overwrite"):
        call(model, quantized, out, False)
    assert out.is_symlink() or out.read_bytes() == before
    call(model, quantized, out, True)
    assert out.read_bytes() != before
    assert not list(tmp_path.glob(".*tmp"))


def test_the_failed_rows_file_is_not_replaced_either(model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.failed.parquet").write_text("keep me")
    done = run("quantize", model, "-o", tmp_path / "x.parquet", status=2)
    assert "x.failed.parquet: exists" in done.stderr
    with pytest.raises(FileExistsError):
        aq.write_parquet(aq.quantize(model), tmp_path / "x.parquet")
    assert (tmp_path / "x.failed.parquet").read_text() == "keep me"
    assert not (tmp_path / "x.parquet").exists()


def test_writing_the_same_again_changes_nothing(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    aq.write_parquet(aq.quantize(model), path)
    before = path.stat()
    aq.write_parquet(aq.quantize(model), path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(FileExistsError, match="overwrite=True"):
        aq.write_parquet(aq.quantize(model, scheme="int8"), path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        aq.write_parquet(stream := aq.quantize_stream(model), path)
    assert pa.table(stream).num_rows == 2  # it was refused before it was read
    assert pq.read_table(path)["scheme"].to_pylist() == ["int4", "int4"]
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dequantize", "Q", "-o", "x.pt"], "x.pt: what is written here is .safetensors"),
        (["dequantize", "Q", "-o", "x"], "such as x.safetensors"),
        (["plan", "M", "-o", "p.txt"], "is .parquet or .csv or .json"),
        (["quantize", "M", "-o", "x.csv"], "name a directory, or a file in .parquet"),
        (["quantize", "M", "-o", "x.npz"], "name a directory, or a file in .parquet"),
        (["export", "Q", "-o", "x.safetensors"], "name a directory"),
    ],
)
def test_a_suffix_that_does_not_fit_is_refused(
    arguments: list[str], message: str, model: Path, quantized: Path, tmp_path: Path
) -> None:
    names = {"Q": str(quantized), "M": str(model)}
    before = sorted(tmp_path.iterdir())
    done = run(*[names.get(word, word) for word in arguments], status=2, cwd=tmp_path)
    assert message in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_suffixes_in_python(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.csv: what is written here is \.parquet"):
        aq.write_parquet(aq.quantize({"a": GOOD}), tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"such as x\.safetensors"):
        aq.write_safetensors({"a": GOOD}, tmp_path / "x.bin")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
def test_a_plan_is_written_as_its_suffix_says_and_read_back(
    suffix: str, model: Path, tmp_path: Path
) -> None:
    plan = tmp_path / f"plan.{suffix}"
    run("plan", model, "-o", plan, "--scheme", "int8")
    done = run("plan", model, "--plan", plan, "--json")
    assert [row["scheme"] for row in json.loads(done.stdout)] == ["int8", "int8"]


def _kill_while_writing(command: list[object], folder: Path) -> None:
    """Kill a command once a temporary file of its own is there."""
    before = set(folder.glob(".*.tmp"))
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL) as job:
        while not set(folder.glob(".*.tmp")) - before:
            assert job.poll() is None, "the job ended before it could be killed"
            time.sleep(0.0005)
        job.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("verb", ["dequantize", "quantize"])
def test_what_a_killed_job_leaves_the_next_one_removes(verb: str, tmp_path: Path) -> None:
    big = {f"l{i}": np.ones((1 << 11, 1 << 11), np.float32) for i in range(12)}
    save_file(big, tmp_path / "big.safetensors")
    aq.write_parquet(aq.quantize(tmp_path / "big.safetensors"), tmp_path / "big.parquet")
    out = tmp_path / "out"
    out.mkdir()
    source, name = (
        (tmp_path / "big.parquet", "x.safetensors")
        if verb == "dequantize"
        else (tmp_path / "big.safetensors", "x.parquet")
    )
    command = [sys.executable, "-m", "arrowquant", verb, source, "-o", out / name]
    for _ in range(3):
        _kill_while_writing(command, out)
    (out / ".theirs.tmp").write_text("keep me")
    assert len(list(out.glob(".*.arrowquant.tmp"))) == 1  # each removed the one before it
    run(verb, source, "-o", out / name)
    left = {path.name for path in out.iterdir()}
    assert left == {name, ".theirs.tmp"} | ({"x.failed.parquet"} if verb == "quantize" else set())


def test_a_file_that_somebody_is_writing_is_left_alone(tmp_path: Path) -> None:
    from arrowquant import _core

    mine = _core.Temporary(tmp_path / "x.parquet")
    mine.path.write_bytes(b"half")
    path = str(tmp_path / "y.parquet")
    code = f"import arrowquant as aq; aq.write_parquet(aq.quantize({{}}), {path!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert mine.path.read_bytes() == b"half"
    mine.commit(False)
    assert (tmp_path / "x.parquet").read_bytes() == b"half"


@pytest.mark.parametrize("name", ["x.parquet", "x.failed.parquet"])
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, name: str) -> None:
    table = pa.table({"layer_name": ["a"], "data": [[1.0, 2.0]]})

    def batches() -> Any:
        yield table.to_batches()[0]
        (tmp_path / name).write_text("keep me")

    reader = pa.RecordBatchReader.from_batches(table.schema, batches())
    with pytest.raises(FileExistsError):
        aq.write_parquet(aq.quantize_stream(reader), tmp_path / "x.parquet")
    assert (tmp_path / name).read_text() == "keep me"
    assert not list(tmp_path.glob(".*tmp"))


def test_another_jobs_directory_is_left_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs begin at once: the one that finds the lock taken removes nothing."""
    from arrowquant._checkpoint import quantize

    def taken(destination: Path) -> Any:
        (destination / ".lock").touch()
        raise BlockingIOError("another job works on it")

    monkeypatch.setattr(quantize, "locked", taken)
    with pytest.raises(BlockingIOError):
        aq.quantize_checkpoint(model, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_parts_as_large_as_can_be(model: Path, tmp_path: Path) -> None:
    aq.quantize_checkpoint(model, tmp_path / "out", part_bytes=sys.maxsize)
    assert aq.verify(tmp_path / "out").ok


def test_a_manifest_of_an_earlier_version_is_read(model: Path, tmp_path: Path) -> None:
    aq.quantize_checkpoint(model, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["came"] = manifest.pop("late_units")
    path.write_text(json.dumps(manifest))
    assert aq.verify(tmp_path / "out", model).ok
    assert aq.quantize_checkpoint(model, tmp_path / "out").finished_layers == 2


def test_a_dataset_goes_on_with_the_searches_that_it_began_with(
    model: Path, tmp_path: Path
) -> None:
    """Whatever the default has become since: nothing was said of a search, then or now."""
    bad = GOOD.copy()
    bad[0, 0] = np.nan
    save_file({"a": GOOD, "b": bad}, model)
    options: dict[str, Any] = {"scheme": "mlx4", "continue_on_error": True}
    aq.quantize_checkpoint(model, tmp_path / "out", **options)
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    for row in manifest["plan"]:
        assert row["search"] == "weighted"
        row["search"] = "none"
    path.write_text(json.dumps(manifest))
    assert aq.quantize_checkpoint(model, tmp_path / "out", **options).failed.num_rows == 1
    # A search that is said is another call.
    with pytest.raises(ValueError, match=r"search none there, .*search mse here"):
        aq.quantize_checkpoint(model, tmp_path / "out", search="mse", **options)
    save_file({"a": GOOD, "b": 2 * GOOD}, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aq.QuantizationWarning)  # The file is another one.
        done = aq.quantize_checkpoint(model, tmp_path / "out", retry_failed=True)
    searches = dict(
        zip(*(pa.table(done)[n].to_pylist() for n in ("layer_name", "search")), strict=True)
    )
    assert searches == {"a": "weighted", "b": "none"}


def test_a_home_directory_in_the_command_line(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    bad = GOOD.copy()
    bad[0, 0] = np.nan
    save_file({"a": GOOD, "b": bad}, model)
    run("quantize", "~/model.safetensors", "-o", "~/out", "--continue-on-error", status=1)
    assert (tmp_path / "out").is_dir()
    done = run("dequantize", "~/out", "-o", "~/back.safetensors", status=1)
    assert "layer 'b'" in done.stdout


class TestAbsurdManifests:
    """Every number is checked before it is used: nothing hangs, nothing is lost."""

    @pytest.fixture
    def dataset(self, model: Path, tmp_path: Path) -> Path:
        aq.quantize_checkpoint(model, tmp_path / "out")
        return tmp_path / "out"

    def _edit(self, dataset: Path, change: Callable[[dict[str, Any]], None]) -> None:
        path = dataset / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    @staticmethod
    def _unit(at: int, value: Any) -> Callable[[dict[str, Any]], None]:
        def change(manifest: dict[str, Any]) -> None:
            manifest["units"][0][at] = value

        return change

    @pytest.mark.parametrize("value", [10**9, 10**18, 2**63, -1, 1.5, True, None, "1"])
    @pytest.mark.parametrize("at", range(8))
    def test_of_units(self, dataset: Path, model: Path, at: int, value: Any) -> None:
        original = json.loads((dataset / "manifest.json").read_text())["units"][0][at]
        self._edit(dataset, self._unit(at, value))
        for call in (
            lambda: aq.quantize_checkpoint(model, dataset),
            lambda: aq.quantize_checkpoint(model, dataset, retry_failed=True),
        ):
            with pytest.raises((ValueError, TypeError), match=r"manifest|dataset|source"):
                call()
        try:
            assert not aq.verify(dataset, model).ok
        except ValueError as error:
            assert "manifest" in str(error)  # noqa: PT017 - either is right
        self._edit(dataset, self._unit(at, original))
        assert aq.verify(dataset, model).ok

    @pytest.mark.parametrize("value", [0, -5, 2**64, "256", None])
    def test_of_settings(self, dataset: Path, model: Path, value: Any) -> None:
        self._edit(dataset, lambda m: m["settings"].update(part_bytes=value))
        with pytest.raises(ValueError, match="manifest"):
            aq.quantize_checkpoint(model, dataset)

    @pytest.mark.parametrize("field", ["rows", "bytes"])
    @pytest.mark.parametrize("value", [10**9, -1, 0.5, None])
    def test_of_files(self, dataset: Path, model: Path, field: str, value: Any) -> None:
        self._edit(dataset, lambda m: m["parts"][0]["layers"][0].update({field: value}))
        try:
            aq.quantize_checkpoint(model, dataset)  # A file of another size is done again.
        except ValueError as error:
            assert "manifest" in str(error)  # noqa: PT017 - either is right
        else:
            assert aq.verify(dataset, model).ok


def test_an_empty_header_in_a_dataset_is_no_key_error(tmp_path: Path) -> None:
    header = b"{}      "
    (tmp_path / "e.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    aq.quantize_checkpoint(tmp_path / "e.safetensors", tmp_path / "out")
    done = run("export", tmp_path / "out", "-o", tmp_path / "x", status=2)
    assert "KeyError" not in done.stderr
    assert "nothing" in done.stderr or "no layers" in done.stderr


def test_a_full_disk_is_one_sentence(model: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    out = str(tmp_path / "x.parquet")
    code = (
        "import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        f"sys.argv = ['arrowquant', 'quantize', {str(model)!r}, '-o', {out!r}]; "
        "runpy.run_module('arrowquant', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "x.parquet" in line
    assert "File too large" in line
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors"}


def test_dequantized_values_are_there(quantized: Path, tmp_path: Path) -> None:
    run("dequantize", quantized, "-o", tmp_path / "back.safetensors", "-q")
    assert load_file(tmp_path / "back.safetensors").keys() == {"a", "b"}
    assert os.access(tmp_path / "back.safetensors", os.R_OK)
