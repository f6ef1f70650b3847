"""What a name or the first bytes of a file say, and what to do with what is not read here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from arrowquant._files import user_path

INDEX = ".safetensors.index.json"

_TORCH = (
    "import torch; from safetensors.torch import save_file; "
    "weights = torch.load('{path}', map_location='cpu', weights_only=True); "
    "save_file({{n: t.contiguous().clone() for n, t in weights.items()}}, '{stem}.safetensors')"
)
_HDF5 = (
    "import h5py, numpy; weights = {{}}; h5py.File('{path}').visititems(lambda name, node: "
    "weights.update({{name: node[()]}}) if hasattr(node, 'dtype') else None); "
    "numpy.savez('{stem}.npz', **weights)"
)
_CONVERTERS = {
    ("a torch file", _TORCH): (".pt", ".pth", ".bin", ".ckpt", ".pkl"),
    ("an HDF5 file", _HDF5): (".h5", ".hdf5", ".keras"),
}

_COPIES = {
    "s3": "aws s3 cp{recursive} {url} {name}",
    "gs": "gcloud storage cp{recursive} {url} {name}",
    "hf": "hf download {rest} --local-dir {name}",
    "http": "curl -L -o {name} {url}",
    "https": "curl -L -o {name} {url}",
}


def check_exists(source: str | os.PathLike[str]) -> None:
    """Raise where there is nothing of that name, with what to do where it is no path at all."""
    path, text = user_path(source), str(source)
    if path.exists():
        return
    # A Path has but one of the two slashes left.
    url = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(.*)", text)
    if url is not None:
        name = "{}://{}".format(*url.groups())
        raise ValueError(f"{name}: is a URL, and aq.scan reads local files. {_copy(*url.groups())}")
    if path.is_symlink():
        raise FileNotFoundError(
            f"{path}: is a link to {path.readlink()}, which is not there. Fetch it anew."
        )
    near = _nearest(path)
    raise FileNotFoundError(f"{path}: no such file or directory.{near}")


KNOWN_SUFFIXES = {".safetensors", ".gguf", ".parquet", ".arrow", ".feather", ".ipc", ".npz", ".npy"}
KNOWN_SUFFIXES |= {".onnx"}
KNOWN_SUFFIXES |= {suffix for suffixes in _CONVERTERS.values() for suffix in suffixes} | {".json"}


def _copy(scheme: str, rest: str) -> str:
    name = rest.rstrip("/").rpartition("/")[2] or "model"
    if scheme == "file":
        return f"Name the path itself: /{rest.partition('/')[2]}"
    command = _COPIES.get(scheme.lower())
    if command is None:
        return "Copy it here first, and name the copy."
    recursive = "" if Path(name).suffix.lower() in KNOWN_SUFFIXES else " --recursive"
    command = command.format(url=f"{scheme}://{rest}", rest=rest, name=name, recursive=recursive)
    return f"Copy it here first: {command}"


def _nearest(path: Path) -> str:
    import difflib

    if not path.parent.is_dir():
        return f" There is no directory {path.parent} either."
    names = [entry.name for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, 1, 0.75)
    return f" Did you mean {path.with_name(near[0])}?" if near else ""


def converts(path: Path) -> bool:
    """Whether it is of a kind that is not read but can be converted."""
    return any(path.suffix.lower() in suffixes for suffixes in _CONVERTERS.values())


def unreadable(path: Path, kinds: Iterable[str]) -> str:
    """Why a file's kind is not read, with the command that converts it where there is one."""
    for (what, template), suffixes in _CONVERTERS.items():
        if path.suffix.lower() in suffixes:
            code = template.format(path=path, stem=path.with_suffix(""))
            return f'{path}: is {what}, which is not read. Convert it: python -c "{code}"'
    known = ", ".join(kinds)
    return (
        f"{path}: unknown kind of file. aq.scan reads {known}, directories of these, and *{INDEX}."
    )


_LENGTH = 8
_MAGIC = {
    b"GGUF": ".gguf",
    b"PAR1": ".parquet",
    b"PARE": ".parquet",
    b"ARROW1": ".arrow",
    b"\xff\xff\xff\xff": ".arrow",
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
}


def kind_of(data: pa.Buffer) -> str | None:
    """The suffix that a file with these bytes would have."""
    start = data.slice(0, min(data.size, _LENGTH + 1)).to_pybytes()
    for magic, suffix in _MAGIC.items():
        if start.startswith(magic):
            return suffix
    # A safetensors file begins with a header's length, and the header with a brace.
    is_header = start[_LENGTH:] == b"{" and int.from_bytes(start[:_LENGTH], "little") <= data.size
    return ".safetensors" if is_header else None


LFS_POINTER = (
    "is a git-lfs pointer, not the file itself. Run `git lfs pull` to fetch it, or download the "
    "file anew."
)


def is_lfs_pointer(path: Path) -> bool:
    """Whether git-lfs has left its note in the file's place."""
    note = b"version https://git-lfs"
    with path.open("rb") as file:
        return file.read(len(note)) == note
