"""The command line, run as users run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from conftest import on_terminal, run


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    good = np.random.default_rng(0).normal(size=(64, 96)).astype("f4")
    bad = good.copy()
    bad[1, 2] = np.inf
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": good, "b.weight": bad, "c.bias": good[0], "d.ids": np.arange(9)}, path)
    return path


def test_help_loads_no_heavy_library() -> None:
    code = """
import runpy, sys
sys.argv = ["arrowquant", "--help"]
try:
    runpy.run_module("arrowquant", run_name="__main__")
finally:
    print(*({"numpy", "pyarrow"} & sys.modules.keys()), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "quantize" in done.stdout
    assert done.stderr == "\n"


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="'arrowquant' has no attribute 'quantise'"):
        aq.quantise  # noqa: B018
    assert set(aq.__all__) <= set(dir(aq))


def test_the_main_job(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    done = run("quantize", checkpoint, "-o", out)
    assert "37 layers quantized, 67 kept, 0 failed" in done.stdout
    assert re.search(r"90.9 MB became 53.6 MB, 18.86 bits per weight", done.stdout)
    assert done.stdout.index("encoder.layer.1.output.dense") < done.stdout.index("18.62")
    assert "Kept for what they are: embedding 46.9 MB, position 793.6 kB" in done.stdout
    everything = run("quantize", checkpoint, "-o", tmp_path / "e.parquet", "--include", "*")
    assert "40 layers quantized, 64 kept" in everything.stdout
    assert re.search(r"90.9 MB became 12.3 MB, 4.32 bits per weight", everything.stdout)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    scan = aq.scan(checkpoint)
    expected = aq.quantize(scan, plan=aq.plan(scan)).succeeded
    assert pq.read_table(out).to_pylist() == expected.to_pylist()
    assert pq.read_table(tmp_path / "m.failed.parquet").num_rows == 0


def test_everything_so_that_something_fails(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    arguments = ("quantize", checkpoint, "-o", out, "--all")
    stopped = run(*arguments, status=1)
    assert stopped.stderr.startswith("stopped: unsupported_dtype: layer 'embeddings.position_ids'")
    assert list(tmp_path.iterdir()) == []
    done = run(*arguments, "--continue-on-error", status=1)
    assert "103 layers quantized, 0 kept, 1 failed" in done.stdout
    assert "layer 'embeddings.position_ids' (I64 [1, 512], model.safetensors)" in done.stdout
    assert pq.read_table(out).num_rows == 103
    failed = pq.read_table(tmp_path / "m.failed.parquet").to_pylist()
    assert [row["error_code"] for row in failed] == ["unsupported_dtype"]


def test_json_is_all_that_json_prints(broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    options = ("--continue-on-error", "--json", "--scheme", "int8", "--group-size", 32)
    done = run("quantize", broken, "-o", out, *options, status=1)
    report = json.loads(done.stdout)
    assert (report["quantized"], report["kept"], report["failed"]) == (1, 2, 1)
    (failure,) = report["failures"]
    assert (failure["layer_name"], failure["error_code"]) == ("b.weight", "non_finite")
    assert (failure["error_element"], failure["error_count"]) == (98, 1)
    assert report["source_bytes"] == 2 * 64 * 96 * 4 + 96 * 4 + 72
    assert report["output_bytes"] == 64 * (96 + 3 * 4) + 96 * 4 + 72
    assert report["lowest_snr"][0]["layer_name"] == "a.weight"
    assert done.stderr == ""


def test_options_reach_the_kernel(broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    options = ("--scheme", "int2", "--symmetric", "--group-size", 16, "--scale-dtype", "BF16")
    run("quantize", broken, "-o", out, *options, "--keep", "b.*", "--keep", "c*", "--threads", 1)
    rows = {row["layer_name"]: row for row in pq.read_table(out).to_pylist()}
    what = {k: rows["a.weight"][k] for k in ("scheme", "group_size", "is_symmetric", "scale_dtype")}
    assert list(what.values()) == ["int2", 16, True, "BF16"]
    assert rows["b.weight"]["scheme"] == "none"


def test_plan_and_dry_run(broken: Path, tmp_path: Path) -> None:
    plan = run("plan", broken, "-o", tmp_path / "plan.parquet")
    assert "one_dimensional" in plan.stdout
    assert "2 layers to quantize, 2 to keep" in plan.stdout
    assert pq.read_table(tmp_path / "plan.parquet") == aq.plan(aq.scan(broken))
    dry = run("quantize", broken, "--dry-run")
    assert dry.stdout == plan.stdout
    rows = json.loads(run("plan", broken, "--json").stdout)
    assert [row["predicted_bytes"] for row in rows] == [
        row["predicted_bytes"] for row in aq.plan(aq.scan(broken)).to_pylist()
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "plan.parquet"]


def test_there_and_back(broken: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "q.parquet", tmp_path / "back.safetensors"
    run("quantize", broken, "-o", out, "--continue-on-error", "--scheme", "int8", status=1)
    inspected = run("inspect", out)
    assert inspected.stdout.index("a.weight") < inspected.stdout.index("c.bias")
    assert "NaN or Inf at element 98" in inspected.stdout
    layers = json.loads(run("inspect", out, "--json").stdout)
    assert layers["layers"][0]["layer_name"] == "a.weight"
    done = run("dequantize", out, "-o", back, status=1)
    assert "1 layer left out" in done.stdout
    assert "layer 'b.weight'" in done.stdout
    original, restored = load_file(broken), load_file(back)
    assert restored.keys() == original.keys() - {"b.weight"}
    assert np.array_equal(restored["d.ids"], original["d.ids"])
    assert restored["c.bias"].tobytes() == original["c.bias"].tobytes()
    assert np.abs(restored["a.weight"] - original["a.weight"]).max() < 0.02


def test_dequantize_to_f32(tmp_path: Path) -> None:
    model, out, back = (tmp_path / name for name in ("h.safetensors", "q.parquet", "b.safetensors"))
    save_file({"w": np.ones((4, 64), np.float16), "n": np.ones(3, np.float16)}, model)
    run("quantize", model, "-o", out)
    run("dequantize", out, "-o", back, "--dtype", "F32")
    restored = load_file(back)
    assert (restored["w"].dtype, restored["n"].dtype) == (np.float32, np.float16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "MODEL"], "name the file to write"),
        (["quantize", "MODEL", "-o", "MODEL"], "is the source itself"),
        (["plan", "MODEL", "-o", "MODEL"], "is the source itself"),
        (["dequantize", "MODEL", "-o", "MODEL"], "is the source itself"),
        (["quantize", "MODEL", "-o", "OUT", "--scheme", "q4"], "'q4' is 'int4' here"),
        (["quantize", "MODEL", "-o", "OUT", "--group-size", "0"], "invalid group_size 0"),
        (["quantize", "MODEL", "-o", "none/OUT"], "does not exist. Make it"),
        (["quantize", "none.safetensors", "-o", "OUT"], "no such file"),
        (["quantize", "MODEL", "-o", "OUT", "--threads", "0"], "threads must be a positive number"),
        (["inspect", "MODEL"], "arquet"),
        (["dequantize", "none.parquet", "-o", "OUT"], "no such file"),
        (["quantize", "--nonsense"], "No such option"),
    ],
)
def test_a_wrong_call_is_status_2_and_one_line(
    broken: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {"MODEL": str(broken), "OUT": str(tmp_path / "out.parquet")}
    done = run(*[names.get(word, word) for word in arguments], status=2, cwd=tmp_path)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_no_output_takes_the_sources_place(tmp_path: Path) -> None:
    """Not even the failed rows' file, whose name follows from the output's."""
    source = tmp_path / "m.failed.parquet"
    aq.write_parquet(aq.quantize({"a": np.ones((2, 64), np.float32)}), tmp_path / "q.parquet")
    table = pq.read_table(tmp_path / "q.parquet", columns=["layer_name", "dtype", "shape", "data"])
    pq.write_table(table, source)
    before = source.read_bytes()
    done = run("quantize", source, "-o", tmp_path / "m.parquet", status=2)
    assert "m.failed.parquet: is the source itself" in done.stderr
    assert source.read_bytes() == before


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    names = ["a:100:b", "[bold]x[/bold]", "c\x1b[31md", "e\nf"]
    save_file({name: np.ones((2, 64), np.float32) for name in names}, model)
    shown = run("plan", model).stdout
    assert "a:100:b" in shown
    assert "[bold]x[/bold]" in shown
    assert r"c\x1b[31md" in shown
    assert r"e\nf" in shown


def test_a_closed_pipe_is_no_error(checkpoint: Path, tmp_path: Path) -> None:
    run("quantize", checkpoint, "-o", tmp_path / "m.parquet")
    for arguments in (["inspect", "m.parquet"], ["inspect", "m.parquet", "--json"]):
        command = f"set -o pipefail; {sys.executable} -m arrowquant {' '.join(arguments)} | true"
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_bar_on_a_terminal_only(checkpoint: Path, tmp_path: Path) -> None:
    shown = on_terminal("quantize", checkpoint, "-o", tmp_path / "m.parquet", columns=120)
    assert "MB" in shown
    # Which layer the bar happened to show depends on when it was drawn.
    assert re.search(r"(embeddings|encoder|pooler|dense|output|query|key|value)\.\w+", shown)
    piped = run("quantize", checkpoint, "-o", tmp_path / "n.parquet")
    assert "\u2501" not in piped.stdout + piped.stderr


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    rng = np.random.default_rng(3)
    shards: dict[str, dict[str, Any]] = {
        "model-00001-of-00002.safetensors": {
            f"layers.{i}.up.weight": rng.normal(size=(64, 128)).astype("f4") for i in range(6)
        },
        "model-00002-of-00002.safetensors": {
            f"layers.{i}.down.weight": rng.normal(size=(128, 64)).astype("f4") for i in range(6)
        },
    }
    shards["model-00002-of-00002.safetensors"]["layers.2.down.weight"][3, 1] = np.nan
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    return folder


def test_a_checkpoints_journey(sharded: Path, tmp_path: Path) -> None:
    out, part = tmp_path / "out", ("--part-mib", 1)
    options = ("--group-size", 64, *part)
    stopped = run("quantize", sharded, "-o", out, *options, status=1)
    assert "non_finite: layer 'layers.2.down.weight' (F32 [128, 64], model-00002" in stopped.stderr
    assert (
        "stopped at layer layers.2.down.weight (non_finite): 6 of 12 layers are finished and kept "
        f"in {out}; run again with --continue-on-error to go on."
    ) in stopped.stderr
    assert f"6 of 12 layers are finished and kept in {out}" in run("inspect", out).stdout
    unfinished = run("verify", out, status=1)
    assert "is not finished" in unfinished.stdout
    done = run("quantize", sharded, "-o", out, "--group-size", 64, "--continue-on-error", status=1)
    assert "11 layers quantized, 0 kept, 1 failed" in done.stdout
    assert "6 were finished before" in done.stdout
    report = run("quantize", sharded, "-o", out, *options, "--json", status=1)
    assert json.loads(report.stdout)["finished_before"] == 12
    other = run("quantize", sharded, "-o", out, "--scheme", "int8", status=2)
    assert "another call began" in other.stderr
    retried = run("quantize", sharded, "-o", out, "--retry-failed", "--scheme", "none")
    assert "11 layers quantized, 1 kept, 0 failed" in retried.stdout
    layers = json.loads(run("inspect", out, "--json").stdout)["layers"]
    assert {row["layer_name"]: row["scheme"] for row in layers}["layers.2.down.weight"] == "none"
    verified = json.loads(run("verify", out, "--against", sharded, "--json").stdout)
    assert verified["ok"] is True
    assert (verified["rows"], verified["compared"], verified["problems"]) == (12, 12, [])
    exported = run("export", out, "-o", tmp_path / "exported", "--shard-mb", 1)
    assert "config.json" in exported.stdout
    again = run("export", out, "-o", tmp_path / "exported", status=2)
    assert "--overwrite" in again.stderr
    run("dequantize", out, "-o", tmp_path / "back.safetensors")
    assert len(load_file(tmp_path / "back.safetensors")) == 12


def test_a_plan_file(sharded: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.csv"
    plan.write_text("layer_name,scheme\n*.2.down.*,none\nlayers.[01].*,int8\nnothing.*,int8\n")
    planned = run("plan", sharded, "--plan", plan, "--json")
    schemes = {row["layer_name"]: row["scheme"] for row in json.loads(planned.stdout)}
    assert schemes["layers.2.down.weight"] == "none"
    assert schemes["layers.1.up.weight"] == "int8"
    assert schemes["layers.3.up.weight"] == "int4"
    assert planned.stderr == "warning: no layer follows the plan's rows: 'nothing.*'.\n"
    done = run("quantize", sharded, "-o", tmp_path / "out", "--plan", plan)
    assert "11 layers quantized, 1 kept, 0 failed" in done.stdout
    assert done.stderr.startswith("warning: no layer follows the plan's rows")


def test_sharded_sources_need_a_directory(sharded: Path, tmp_path: Path) -> None:
    done = run("quantize", sharded, "-o", tmp_path / "out.parquet", status=2)
    assert "has several files. Name a directory to write to" in done.stderr
    file = sharded / "model-00001-of-00002.safetensors"
    wrong = run("quantize", file, "-o", tmp_path / "out.parquet", "--retry-failed", status=2)
    assert "--retry-failed is for datasets" in wrong.stderr
    kind = run("quantize", file, "-o", tmp_path / "out.gguf", status=2)
    assert "name a directory, or a file in .parquet" in kind.stderr
    help_text = " ".join(
        run("quantize", "--help", env=os.environ | {"COLUMNS": "200"}).stdout.split()
    )
    assert "which a stop loses" in help_text.replace(" │ │ ", " ")


def test_ctrl_c_says_what_is_kept(tmp_path: Path) -> None:
    import signal
    import time

    big = {f"l{i}": np.ones((1 << 12, 1 << 12), np.float32) for i in range(8)}
    save_file(big, tmp_path / "big.safetensors")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "arrowquant", "quantize", tmp_path / "big.safetensors"]
    command += ["-o", out, "--part-mib", "64", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        while not (out / "layers/part-00001.parquet").exists():
            assert job.poll() is None
            time.sleep(0.001)
        job.send_signal(signal.SIGINT)
        assert job.stderr is not None
        said = job.stderr.read()
    assert job.returncode == 130
    assert re.search(rf"interrupted: [1-8] of 8 layers are finished and kept in {out}", said)
    run("quantize", tmp_path / "big.safetensors", "-o", out)
    assert not list(out.rglob("*.tmp"))
    run("verify", out)


def test_tables_fit_eighty_columns(checkpoint: Path, tmp_path: Path) -> None:
    run(
        "quantize",
        checkpoint,
        "-o",
        tmp_path / "m.parquet",
        "--all",
        "--continue-on-error",
        status=1,
    )
    for arguments in (["plan", checkpoint], ["inspect", "m.parquet"]):
        shown = on_terminal(*arguments, cwd=tmp_path)
        lines = shown.splitlines()
        assert all(len(line) <= 80 for line in lines if "Next:" not in line), shown
        # Every table row is one line: a name is shortened, never folded.
        rows = [line for line in lines if "dense" in line]
        assert all(re.search(r"none|int4", row) for row in rows), shown
    wide = on_terminal("plan", checkpoint, columns=160)
    assert "encoder.layer.{0…5}.output.dense.weight" in wide
    assert re.search(r"\{0…5\}\.output\.dense\.weight +6 +F32 ", wide)


def test_layers_that_are_alike_share_a_line(tmp_path: Path) -> None:
    arrays = {f"l.{i}.w": np.full((4, 64), i + 1, np.float32) for i in (0, 1, 2, 5)}
    arrays |= {"l.3.w": np.ones((8, 64), np.float32), "2.w": np.ones(3, np.float32)}
    save_file(arrays, tmp_path / "m.safetensors")
    shown = run("plan", tmp_path / "m.safetensors").stdout
    assert re.search(r"^l\.\{0…2,5\}\.w +4 ", shown, re.M)
    assert re.search(r"^l\.3\.w +1 ", shown, re.M)
    assert "4,096" in shown  # the sum of four


def test_the_worst_layers_and_the_summary_come_last(checkpoint: Path, tmp_path: Path) -> None:
    run("quantize", checkpoint, "-o", tmp_path / "m.parquet")
    shown = run("inspect", tmp_path / "m.parquet", "--top", 3).stdout
    table, _, worst = shown.partition("Lowest SNR")
    assert "pooler.dense.weight" in table
    assert len(re.findall(r"int4", worst)) == 3
    assert worst.rstrip().splitlines()[-2] == "104 layers"
    assert worst.rstrip().splitlines()[-1].startswith("Next: arrowquant dequantize")


def test_version_short_help_and_quiet(broken: Path, tmp_path: Path) -> None:
    assert run("--version").stdout == f"arrowquant {aq.__version__}\n"
    assert run("-h").stdout == run("--help").stdout
    for command in ("plan", "quantize", "inspect", "dequantize", "verify", "export"):
        text = run(command, "-h").stdout
        assert not re.search("<(bool|str|int)>", text), command
    text = " ".join(run("quantize", "-h").stdout.split())
    assert "int8, int4, int2, fp8_e4m3, mxfp8, mxfp4, nvfp4, nf4" in text
    assert "--symmetric / --asymmetric" in text or "--symmetric" in text
    assert "ARROWQUANT_NUM_THREADS" in text
    assert "OMP_NUM_THREADS" in text
    done = run(
        "quantize", broken, "-o", tmp_path / "q.parquet", "--continue-on-error", "-q", status=1
    )
    assert (done.stdout, done.stderr) == ("", "")
    # The shell is found out by asking which process runs the command.
    in_bash = ["bash", "-c", '"$0" -m arrowquant --show-completion; exit $?', sys.executable]
    done = subprocess.run(in_bash, capture_output=True, text=True, check=False)
    assert "complete" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["quantize", "m", "--shceme", "int4"], "--scheme"),
        (["quantise"], "'quantize'"),
        (["quantize", "MODEL", "-o", "o.parquet", "--scheme", "itn4"], "Did you mean 'int4'?"),
        (
            ["quantize", "MODEL", "-o", "o.parquet", "--scheme", "q4_k_m"],
            "is a mixture of GGUF types",
        ),
        (["quantize", "model.safetensor", "-o", "o.parquet"], "Did you mean model.safetensors?"),
        (["quantize", "MODEL", "-o", "o", "--part-mib", "0"], "--part-mib"),
        (["verify", "MODEL"], "verify checks datasets"),
    ],
)
def test_slips_are_recognised(
    broken: Path, tmp_path: Path, arguments: list[str], suggestion: str
) -> None:
    words = [str(broken) if word == "MODEL" else word for word in arguments]
    assert suggestion in run(*words, status=2, cwd=tmp_path).stderr


def test_json_is_printed_when_it_stops_too(broken: Path, tmp_path: Path) -> None:
    stopped = run("quantize", broken, "-o", tmp_path / "q.parquet", "--json", status=1)
    report = json.loads(stopped.stdout)
    assert report["failures"][0]["layer_name"] == "b.weight"
    assert report["status"] == 1
    dataset = run("quantize", broken, "-o", tmp_path / "out", "--json", status=1)
    assert json.loads(dataset.stdout)["failures"][0]["error_code"] == "non_finite"
    wrong = run("quantize", "none.safetensors", "-o", tmp_path / "x.parquet", "--json", status=2)
    assert "no such file" in json.loads(wrong.stdout)["error"]


def test_each_command_says_what_comes_next(sharded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert f"Next: arrowquant quantize {sharded} -o OUT" in run("plan", sharded).stdout
    done = run("quantize", sharded, "-o", out, "--continue-on-error", status=1)
    assert (
        f"Next: arrowquant quantize {sharded} -o {out} --retry-failed --scheme none" in done.stdout
    )
    retried = run("quantize", sharded, "-o", out, "--retry-failed", "--scheme", "none")
    assert f"Next: arrowquant verify {out} --against {sharded}" in retried.stdout
    verified = run("verify", out, "--against", sharded)
    assert f"Next: arrowquant export {out} -o EXPORTED" in verified.stdout
    exported = run("export", out, "-o", tmp_path / "x")
    assert f"Next: vllm serve {tmp_path / 'x'}" in exported.stdout
    # No exporter writes these yet.
    run("quantize", sharded, "-o", tmp_path / "q", "--scheme", "q8_0", "--keep", "layers.2.down*")
    verified = run("verify", tmp_path / "q")
    assert f"Next: arrowquant dequantize {tmp_path / 'q'} -o BACK" in verified.stdout


def test_long_steps_show_a_bar(sharded: Path, tmp_path: Path) -> None:
    run("quantize", sharded, "-o", tmp_path / "out", "--all", "--keep", "*.2.down.*")
    for arguments in (
        ["verify", "out", "--against", sharded],
        ["export", "out", "-o", "x"],
        ["dequantize", "out", "-o", "back.safetensors"],
    ):
        assert "━" in on_terminal(*arguments, cwd=tmp_path), arguments


def test_a_resumed_jobs_speed_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run did is not counted in a moment."""
    import rich.progress

    from arrowquant._progress import listener

    speeds = []
    real = rich.progress.Progress.update

    def update(self: Any, task: Any, **fields: Any) -> None:
        real(self, task, **fields)
        speeds.append(self.tasks[0].speed or 0)

    monkeypatch.setattr(rich.progress.Progress, "update", update)
    with listener(True) as report:
        assert report is not None
        report(False, None, 0.5, 10**12)
        for step in range(1, 6):
            time.sleep(0.01)
            report(True, "l", 0.5, 10**12 + step * 1000)
    assert max(speeds) < 10**9


def test_ctrl_c_in_verify_does_not_speak_of_writing(tmp_path: Path) -> None:
    import signal

    big = {f"l{i}": np.ones((1 << 12, 1 << 12), np.float32) for i in range(8)}
    save_file(big, tmp_path / "big.safetensors")
    out = tmp_path / "out"
    run("quantize", tmp_path / "big.safetensors", "-o", out, "--part-mib", 64)
    command = [sys.executable, "-m", "arrowquant", "verify", out, "--against"]
    with subprocess.Popen(
        [*command, tmp_path / "big.safetensors"], stderr=subprocess.PIPE, text=True
    ) as job:
        time.sleep(0.6)
        job.send_signal(signal.SIGINT)
        assert job.stderr is not None
        said = job.stderr.read()
    if job.returncode == 130:  # else it was done before
        assert said == "interrupted\n"
