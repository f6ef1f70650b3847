"""What newcomers get wrong first: each ends in one clear sentence with the way out."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

import arrowquant as aq

GOOD = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


class OnGpu:
    """A tensor on a GPU, as far as anybody can see who asks it."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("nobody may copy it unasked")


QUANTIZED = {
    "a wrong scheme": ({"scheme": "q4_k_m"}, "Choose one of 'int8', 'int4', 'int2', 'fp8_e4m3', "),
    "a slip in a scheme": ({"scheme": "itn4"}, r"Did you mean 'int4'\?"),
    "a plan that names no layer": (
        {"plan": pa.table({"layer": ["a"]})},
        "Rename 'layer' to 'layer_name'",
    ),
}
WEIGHTS: dict[str, tuple[Any, str]] = {
    "a wrong column": (
        pa.table({"name": ["a"], "data": [[1.0]]}),
        "Rename 'name' to 'layer_name'",
    ),
    "a tensor on a GPU": ({"a": OnGpu()}, r"\.cpu\(\)"),
    "a list": ({"a": [[1.0]]}, r"np\.asarray"),
    "an array instead of a dictionary": (GOOD, "weights must be a dictionary of names and arrays"),
}
PATHS = {
    "a wrong path": ("DIR/model.safetensor", r"Did you mean .*/model\.safetensors\?"),
    "a directory without weights": ("DIR/empty", "holds no file that aq.scan reads"),
    "another kind of file": ("DIR/model.h5", "is an HDF5 file.*python -c"),
    "a URL": ("https://example.com/model.safetensors", "Copy it here first: curl"),
    "a bucket": ("s3://bucket/model", "Copy it here first: aws s3 cp"),
    "a hub id": ("org/model-7B", "hf download org/model-7B --local-dir model-7B"),
}


def _write_there(folder: Path) -> None:
    aq.write_parquet(aq.quantize({"a": GOOD}), folder / "there.parquet")


CALLS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an existing file": (_write_there, "overwrite=True"),
    "quantized weights to NumPy": (
        lambda _: aq.to_numpy(aq.quantize({"a": GOOD}).succeeded),
        r"aq\.to_numpy\(aq\.dequantize\(",
    ),
    "a wrong mode": (
        lambda _: aq.ArrowQuantV2(mode=cast("Any", "llm")),
        "Must be 'base' or 'diffusion'",
    ),
}


def _calls() -> dict[str, tuple[Callable[[Path], Any], str]]:
    options = {
        name: (lambda _, given=given: aq.quantize({"a": GOOD}, **given), message)
        for name, (given, message) in QUANTIZED.items()
    }
    weights = {
        name: (lambda _, given=given: aq.quantize(given), message)
        for name, (given, message) in WEIGHTS.items()
    }
    paths = {
        name: (lambda folder, path=path: aq.scan(path.replace("DIR", str(folder))), message)
        for name, (path, message) in PATHS.items()
    }
    return CALLS | options | weights | paths


MISTAKES = _calls()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_says_what_to_do(mistake: str, tmp_path: Path) -> None:
    save_file({"a": GOOD}, tmp_path / "model.safetensors")
    (tmp_path / "there.parquet").write_text("keep me")
    (tmp_path / "model.h5").write_bytes(b"HDF5")
    (tmp_path / "empty").mkdir()
    call, message = MISTAKES[mistake]
    with pytest.raises((ValueError, TypeError, OSError), match=message) as caught:
        call(tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert "Traceback" not in text
    assert "arrowquant's own" not in text


def test_an_old_python_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(
        ImportError, match=r"needs Python 3\.11 or later, and this is 3\.9\.2\. Make"
    ):
        runpy.run_path(str(Path(aq.__file__)))


def test_no_hint_names_another_projects_package() -> None:
    """On PyPI `arrowquant` is somebody else's."""
    for path in Path(aq.__file__).parent.rglob("*.py"):
        assert not re.search(r"pip install '?arrowquant\b", path.read_text()), path


@pytest.mark.parametrize("mode", ["base", "diffusion"])
def test_the_dictionary_api_takes_a_mode(mode: Any) -> None:
    for quantizer in (aq.ArrowQuantV2(mode), aq.ArrowQuantV2(mode=mode)):
        layers = quantizer.quantize_batch({"a": GOOD})
        plain = aq.ArrowQuantV2().quantize_batch({"a": GOOD})
        assert layers["a"]["quantized_data"] == plain["a"]["quantized_data"]


def test_the_command_that_converts_works(tmp_path: Path) -> None:
    import subprocess

    h5py = pytest.importorskip("h5py")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a/w", data=GOOD)
    with pytest.raises(ValueError, match="Convert it") as caught:
        aq.scan(path)
    (code,) = re.findall(r'python -c "(.*)"$', str(caught.value))
    subprocess.run([sys.executable, "-c", code], check=True)
    assert np.array_equal(aq.scan(tmp_path / "m.npz")["a/w"], GOOD)
