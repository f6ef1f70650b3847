"""The README's and the docstrings' examples run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from safetensors.numpy import save_file

import arrowquant

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


BLOCKS = re.findall(r"```(bash|python|text)\n(.*?)```", README, re.S)


def _said_below(code: str) -> str:
    """The text block of the README that follows a block of code."""
    at = next(i for i, (_, block) in enumerate(BLOCKS) if code in block)
    return next(block for kind, block in BLOCKS[at:] if kind == "text")


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    code = "\n".join(block for kind, block in BLOCKS if kind == "python")
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(_said_below("import arrowquant as aq"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["weights.failed.parquet", "weights.parquet"]


def test_what_the_readme_shows_is_what_is_printed(tmp_path: Path, checkpoint: Path) -> None:
    for name, options, status in (
        ("minilm.parquet", [], 0),
        ("all.parquet", ["--all", "--continue-on-error"], 1),
    ):
        command = [sys.executable, "-m", "arrowquant", "quantize", checkpoint, "-o", name]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == status
        time = re.compile(r"in \d+\.\d s")
        printed = {time.sub("in 0 s", line.rstrip()) for line in done.stdout.splitlines()}
        shown = [time.sub("in 0 s", line) for line in _said_below(f"-o {name}").splitlines()]
        assert set(shown) <= printed, set(shown) - printed


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_readmes_python_is_typed(tmp_path: Path, checker: str) -> None:
    """As users have it: with the stubs of pyarrow, and strict."""
    pytest.importorskip("mypy")
    pytest.importorskip("pyright")
    code = "\n".join(block for kind, block in BLOCKS if kind == "python")
    (tmp_path / "readme.py").write_text(code)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    options = ["--strict", "--cache-dir", "cache"] if checker == "mypy" else ["--project", "."]
    command = [sys.executable, "-m", checker, *options, "readme.py"]
    if checker == "pyright":
        command = [sys.executable, "-m", checker, "--pythonpath", sys.executable, "readme.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout


def test_the_checkpoints_journey_runs(tmp_path: Path) -> None:
    """Every block of docs/checkpoint.md, in order, on a sharded checkpoint with a NaN."""
    rng = np.random.default_rng(3)
    ups, downs = (
        {f"layers.{i}.{name}.weight": rng.normal(size=shape).astype("f4") for i in range(6)}
        for name, shape in (("up", (64, 128)), ("down", (128, 64)))
    )
    downs["layers.2.down.weight"][3, 1] = np.nan
    (tmp_path / "model").mkdir()
    index = {}
    for number, tensors in enumerate((ups, downs), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(tensors, tmp_path / "model" / name)
        index |= dict.fromkeys(tensors, name)
    (tmp_path / "model/model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "model/config.json").write_text("{}")
    page = (ROOT / "docs/checkpoint.md").read_text()
    said = []
    bin_path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for kind, code in re.findall(r"```(bash|python|text)\n(.*?)```", page, re.S):
        if kind == "text":
            assert code == said[-1].stderr
            continue
        command = ["bash", "-c", code] if kind == "bash" else [sys.executable, "-c", code]
        environment = os.environ | {"PATH": bin_path}
        run = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment
        )
        said.append(run)
    # Stopped, then failed layers; the kept NaN layer is exported as it is.
    assert [run.returncode for run in said] == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert "no problems" in said[6].stdout
    assert "non_finite" in said[2].stdout


def test_the_page_on_inputs_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/inputs.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "2 of 2 rows succeeded" in run.stdout
    assert "['a.weight'] (4, 64)" in run.stdout


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


def _links() -> list[tuple[Path, str]]:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    return [(p, link) for p in pages for link in re.findall(r"\]\(([^)#:]+)\)", p.read_text())]


@pytest.mark.parametrize(("page", "link"), _links(), ids=str)
def test_links_lead_somewhere(page: Path, link: str) -> None:
    assert (page.parent / link).exists()


# Modules for engines are there for those who have them.
MODULES = [
    module.name
    for module in pkgutil.walk_packages(arrowquant.__path__, "arrowquant.")
    if module.name not in {"arrowquant.ray", "arrowquant.spark"}
]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_some_docstrings_have_examples() -> None:
    finder = doctest.DocTestFinder()
    found = [finder.find(importlib.import_module(name)) for name in MODULES if "main" not in name]
    assert sum(bool(test.examples) for tests in found for test in tests) >= 2


@pytest.mark.parametrize("name", arrowquant.__all__)
def test_what_is_public_is_documented(name: str) -> None:
    assert (getattr(arrowquant, name).__doc__ or "").strip()


ENGINES = sorted((ROOT / "docs/engines").glob("*.md"))


@pytest.mark.parametrize("page", ENGINES, ids=lambda page: page.stem)
def test_the_engines_pages_run(page: Path, tmp_path: Path) -> None:
    if page.stem in {"ray", "spark"}:
        pytest.importorskip("ray" if page.stem == "ray" else "pyspark")
    if page.stem == "spark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable}
    command = [sys.executable, "-c", code]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout


def test_the_questions_in_sql_have_answers(tmp_path: Path, checkpoint: Path) -> None:
    command = [sys.executable, "-m", "arrowquant", "quantize", checkpoint, "--continue-on-error"]
    subprocess.run(
        [*command, "-o", tmp_path / "out", "--all"], capture_output=True, cwd=tmp_path, check=False
    )
    setup, *questions = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/sql.md").read_text(), re.S)
    assert len(questions) == 13
    connection = duckdb.connect()
    connection.execute(f"set file_search_path = '{tmp_path}'")
    connection.execute(setup)
    for text in questions:
        question = text.replace("to 'plan", f"to '{tmp_path}/plan")
        if "better/" in question:
            plan = ["--plan", tmp_path / "plan.parquet", "--all", "-o", tmp_path / "better"]
            done = subprocess.run([*command, *plan], capture_output=True, check=False)
            assert done.returncode == 1, done.stderr
        answer = connection.execute(question).fetchall()
        assert answer, question
        if "different" in question:
            assert answer == [(104, 104, 104)]
        if "becomes" in question or "now" in question:
            assert len(answer) == 10
