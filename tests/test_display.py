"""How objects look at a prompt and in a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrowquant as aq

GOOD = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


def _objects(folder: Path) -> dict[str, Any]:
    aq.write_safetensors({"a.weight": GOOD, "<b>": GOOD}, folder / "m.safetensors")
    scan = aq.scan(folder / "m.safetensors")
    bad = {"a": GOOD, "bad": GOOD.T}
    result = aq.quantize(bad, continue_on_error=True)
    return {
        "scan": scan,
        "result": result,
        "stream": aq.quantize_stream(scan),
        "dataset": aq.quantize_checkpoint(scan, folder / "out"),
        "dequantized": aq.dequantize(result, continue_on_error=True),
        "dictionary": aq.ArrowQuantV2().quantize_batch({"a": GOOD}),
        "arrays": aq.to_numpy(scan),
    }


KINDS = ["scan", "result", "stream", "dataset", "dequantized", "dictionary", "arrays"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_line_and_a_table(kind: str, tmp_path: Path) -> None:
    shown = _objects(tmp_path)[kind]
    assert "\n" not in repr(shown)
    assert len(repr(shown)) < 200
    html = shown._repr_html_()
    assert "<table>" in html
    assert "<b></th>" not in html
    assert "<td><b></td>" not in html  # names are escaped


@pytest.mark.parametrize("kind", ["scan", "result", "stream", "dataset"])
def test_completion_shows_what_people_use(kind: str, tmp_path: Path) -> None:
    shown = _objects(tmp_path)[kind]
    names = [name for name in dir(shown) if not name.startswith("_")]
    assert names
    assert not {"setup", "pieces", "stretch", "without_data", "key", "manifest"} & set(names)
    assert all(hasattr(shown, name) for name in names if name != "failed")


def test_a_notebook_shows_plans_and_failed_rows(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import numpy as np, pyarrow as pa, arrowquant as aq
show = shell.display_formatter.format
good = np.ones((2, 64), np.float32)
plan, _ = show(aq.plan({"a": good, "b": good[0]}))
failed, _ = show(aq.quantize({"a": good.T}, continue_on_error=True).failed)
other, _ = show(pa.table({"x": [1]}))
html = plan["text/html"]
print("plan: 1 layers to quantize, 1 to keep" in html, "<td>a</td>" in html)
print("1 failed rows" in failed["text/plain"], "not_contiguous" in failed["text/html"])
print("text/html" in other, "pyarrow.Table" in other["text/plain"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["True True", "True True", "False True"]
