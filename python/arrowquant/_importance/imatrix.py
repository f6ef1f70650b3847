"""llama.cpp's importance matrices: `imatrix.gguf`, and the older `imatrix.dat`.

Source: `tools/imatrix/imatrix.cpp` in https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from arrowquant._files import replacing, user_path

SUFFIXES = (".gguf", ".dat")
_SUMS, _COUNTS = ".in_sum2", ".counts"
_STACK = "_exps."
_GGUFS_OWN = frozenset({"token_embd.weight", "output.weight"})
"""Names of llama.cpp's outside of blocks."""
_LARGEST = float(np.finfo(np.float32).max)
_LONGEST = 1 << 20
"""Bytes of a name; more is no such file."""
_MOST = 1 << 28
"""Numbers of an entry, likewise."""


def read_imatrix(path: str | os.PathLike[str]) -> pa.Table:
    """Read an importance matrix of llama.cpp.

    Args:
        path: A GGUF file, or one of the older format, `.dat`.

    Returns:
        `layer_name`; `importance`, the mean square of each of the layer's inputs, a list of
        float32; `tokens`, how many it is of (an older file counts chunks); `source`, the file's
        name. Each expert of a stack is a row, `NAME[INDEX]`; one that saw no token is null.

    Raises:
        OSError: The file can't be read.
        ValueError: It is no such file, or was damaged.
    """
    found = user_path(path)
    if not found.is_file():
        raise FileNotFoundError(f"{found}: no such file.")
    with found.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    return _table(_of_gguf(found) if is_gguf else _of_dat(found), found.name)


def write_imatrix(
    importance: Any, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a table of importance as llama.cpp's tools read it.

    Args:
        importance: A table `layer_name, importance`, and `tokens` where it is known; or its file.
            Hugging Face's names become llama.cpp's. Rows `NAME[INDEX]` go into one stack.
        path: `.gguf`, or the older `.dat`, which older tools read.
        overwrite: Replace a file.

    Returns:
        The file.

    Raises:
        OSError: The file can't be written, or exists.
        ValueError: A stack lacks a matrix, or its matrices have other numbers of columns; or
            llama.cpp has no name for a layer.
        ImportError: The package gguf is needed, and not installed.
    """
    from arrowquant._importance import read_table

    table, target = read_table(importance), user_path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{target}: an importance matrix is a .gguf or .dat file.")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists. Remove it, or say overwrite=True.")
    entries = _stacked(_with_names_of_gguf(table))
    write = _write_gguf if target.suffix.lower() == ".gguf" else _write_dat
    write(entries, target)
    return target


def _table(entries: list[tuple[str, Any, int]], source: str) -> pa.Table:
    from arrowquant._importance import SCHEMA

    names, values, tokens = zip(*entries, strict=True) if entries else ((), (), ())
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{source}: has '{twice}' twice.")
    columns = [
        pa.array(names, pa.string()),
        pa.array(values, SCHEMA.field("importance").type),
        pa.array(tokens, pa.int64()),
        pa.array([source] * len(names), pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _rows(name: str, values: Any, counts: Any, tokens: list[int]) -> Iterator[tuple[str, Any, int]]:
    """The rows of a tensor: of each matrix, where it is a stack of them."""
    values = values.reshape(len(counts), -1)
    is_stack = len(counts) > 1 or _STACK in name
    for at, (row, count, seen) in enumerate(zip(values, counts, tokens, strict=True)):
        mean = None if count <= 0 else (row / count).astype(np.float32)
        yield f"{name}[{at}]" if is_stack else name, mean, seen


def _of_gguf(path: Path) -> list[tuple[str, Any, int]]:
    from arrowquant._scan import scan

    source = scan(path)
    if source.metadata.get("general.type") != "imatrix":
        raise ValueError(f"{path}: is a GGUF file, but no importance matrix.")
    names = set(source.outline()["layer_name"].to_pylist())
    rows: list[tuple[str, Any, int]] = []
    for name in sorted(names):
        if not name.endswith(_SUMS):
            continue
        layer = name.removesuffix(_SUMS)
        if layer + _COUNTS not in names:
            raise ValueError(f"{path}: '{layer}' has sums, but no counts.")
        sums = np.asarray(source[name], np.float64)
        counts = np.asarray(source[layer + _COUNTS], np.float64).ravel()
        if not counts.size or sums.size % counts.size:
            raise ValueError(f"{path}: '{layer}' has {sums.size} sums and {counts.size} counts.")
        rows += _rows(layer, sums, counts, [round(count) for count in counts])
    return rows


def _of_dat(path: Path) -> list[tuple[str, Any, int]]:
    data = memoryview(path.read_bytes())
    at = 0

    def take(count: int) -> memoryview:
        nonlocal at
        if count < 0 or at + count > len(data):
            raise ValueError(f"{path}: is no importance matrix, or was cut short at byte {at}.")
        at += count
        return data[at - count : at]

    def number(most: int) -> int:
        value: int = struct.unpack("<i", take(4))[0]
        if not 0 <= value <= most:
            raise ValueError(f"{path}: is no importance matrix: {value} at byte {at - 4}.")
        return value

    rows: list[tuple[str, Any, int]] = []
    for _ in range(number(_LONGEST)):
        try:
            name = bytes(take(number(_LONGEST))).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is no importance matrix: {error}.") from error
        calls, count = number(2**31 - 1), number(_MOST)
        values = np.frombuffer(take(4 * count), "<f4").astype(np.float64)
        rows.append((name, None if calls == 0 else (values / calls).astype(np.float32), calls))
    return rows


def _with_names_of_gguf(table: pa.Table) -> pa.Table:
    from arrowquant._importance.names import are_of_gguf, to_gguf

    names = table["layer_name"].to_pylist()
    if None in names:
        raise ValueError(f"importance has no layer_name in row {names.index(None)}. Give it one.")
    others = [name for name in names if not are_of_gguf([name]) and name not in _GGUFS_OWN]
    if not others:
        return table
    theirs = {name: name for name in names} | to_gguf(others, [])
    unknown = [name for name in others if theirs[name] == name]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(
            f"llama.cpp has no name for '{unknown[0]}'{more}. Rename the table's layer_name, or "
            "leave such rows out."
        )
    column = pa.array([theirs[name] for name in names], pa.string())
    return table.set_column(table.schema.get_field_index("layer_name"), "layer_name", column)


def _stacked(table: pa.Table) -> list[tuple[str, Any, list[int]]]:
    """Each tensor's numbers, a row for each of its matrices, and their tokens."""
    has_tokens = "tokens" in table.schema.names
    found: dict[str, dict[int, tuple[Any, int]]] = {}
    for row in table.to_pylist():
        name, at = matrix(row["layer_name"])
        tokens = row["tokens"] if has_tokens and row["tokens"] is not None else 1
        _check(row["layer_name"], row["importance"], max(1, tokens))
        matrices = found.setdefault(name, {})
        if at in matrices:
            raise ValueError(f"importance has '{row['layer_name']}' twice.")
        matrices[at] = (row["importance"], tokens)
    entries = []
    for name, matrices in found.items():
        if set(matrices) != set(range(len(matrices))):
            raise ValueError(
                f"importance has {len(matrices)} matrices of '{name}', but not all. Give each a "
                f"row, from '{name}[0]' to '{name}[{max(matrices)}]'; null where nothing is known."
            )
        rows = [matrices[at] for at in range(len(matrices))]
        widths = {len(numbers) for numbers, _ in rows if numbers is not None}
        if not widths:
            continue  # Nothing is known of it.
        if len(widths) > 1:
            raise ValueError(f"the matrices of '{name}' have other numbers of columns each.")
        (width,) = widths
        known = [numbers for numbers, _ in rows if numbers is not None]
        mean = np.mean(np.asarray(known, np.float32), axis=0)
        values = [mean if numbers is None else numbers for numbers, _ in rows]
        counts = [0 if numbers is None else max(1, tokens) for numbers, tokens in rows]
        entries.append((name, np.asarray(values, np.float32).reshape(-1, width), counts))
    return entries


def _check(name: str, numbers: list[float | None] | None, tokens: int) -> None:
    """Refuse numbers that the file can't hold, or llama.cpp does not take."""
    if numbers is None:
        return
    if not numbers:
        raise ValueError(f"importance of '{name}' has no numbers. Give one for each column.")
    for at, number in enumerate(numbers):
        if number is None or not 0 <= number * tokens <= _LARGEST:
            said = "null" if number is None else number
            raise ValueError(
                f"importance of '{name}' is {said} at column {at}. llama.cpp takes numbers of at "
                f"least zero, and float32 holds {tokens} times as much. Correct it, or leave the "
                "row out."
            )


def matrix(name: str) -> tuple[str, int]:
    """The tensor that a layer is of, and which of its matrices it is."""
    stem, bracket, number = name.rpartition("[")
    if bracket and number.endswith("]") and number[:-1].isdigit():
        return stem, int(number[:-1])
    return name, 0


def _write_gguf(entries: list[tuple[str, Any, list[int]]], path: Path) -> None:
    gguf = needed("gguf", "writing an importance matrix in GGUF")

    class Writer(gguf.GGUFWriter):  # type: ignore[name-defined,misc]
        def add_architecture(self) -> None:
            """An importance matrix has none."""

    with replacing(path) as temporary:
        writer = Writer(temporary, "")
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", ["arrowquant"])
        writer.add_uint32("imatrix.chunk_count", 1)
        most = max((max(counts) for _, _, counts in entries), default=1)
        writer.add_uint32("imatrix.chunk_size", max(1, most))
        for name, values, counts in entries:
            own = np.asarray(counts, np.float32).reshape(-1, 1)
            writer.add_tensor(name + _SUMS, values * own)
            writer.add_tensor(name + _COUNTS, own)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _write_dat(entries: list[tuple[str, Any, list[int]]], path: Path) -> None:
    def text(value: str) -> bytes:
        data = value.encode()
        return struct.pack("<i", len(data)) + data

    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for name, values, counts in entries:
            calls = max(1, *counts)
            file.write(text(name) + struct.pack("<ii", calls, values.size))
            file.write((values * np.float32(calls)).astype("<f4").tobytes())
        file.write(struct.pack("<i", 1) + text("arrowquant"))


def needed(package: str, what: str, install: str | None = None) -> Any:
    """Import a package that not everybody has; `install` is what pip takes, if not its name.

    Raises:
        ImportError: It is not installed; the text says how to.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{what} takes the package {package}: pip install {install or package}."
        ) from error
