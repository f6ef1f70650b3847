"""How much the columns of a model's layers matter, from a forward pass over some text.

What matters is the mean square of each input of a linear layer: by so much an error in a column of
the weights changes the output. Source: the importance matrix of llama.cpp,
https://github.com/ggml-org/llama.cpp/pull/4861.

The model is made without its weights. Those of a block are read just before it runs, for all tokens
at once, and are let go after it, so that never more than a block is in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._files import replacing, user_path
from arrowquant._importance import SCHEMA, says_something
from arrowquant._importance.imatrix import needed
from arrowquant._importance.propagated import KINDS, propagated
from arrowquant._importance.skeleton import WHAT, WITHOUT, Skeleton, first_line
from arrowquant._progress import ProgressCallback, listener

Array = np.ndarray[Any, Any]
CHUNK = 256
"""Tokens that see each other."""
_SEED = 0
_TOKENIZERS = ("tokenizer.*", "vocab.*", "merges.txt", "spiece.model", "*.tiktoken")
_EXTRA = "'arrowquantize[calibrate]'"
_STACK = 3
"""Dimensions of a stack of matrices."""
_FEW = 32
"""Tokens of which an expert sees fewer than can say what its columns take."""
_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)|(?<=\[)\d+(?=\]$)")
"""The number of an expert in the name of its matrix."""


@dataclass(frozen=True)
class Seen:
    """What came into a layer."""

    sums: Array
    """Of the squares of each column's inputs, float64."""
    tokens: int

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.sums + other.sums, self.tokens + other.tokens)


def importance(
    model: str | os.PathLike[str],
    text: str | Sequence[str] | None = None,
    *,
    tokens: int = 1024,
    state: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
) -> pa.Table:
    """Find how much the columns of a model's linear layers matter, for `search="weighted"`.

    The model runs over some text in float32, block by block: no more than the embeddings and one
    block of weights is in memory.

    Args:
        model: A Hugging Face directory of an architecture that transformers knows, with weights
            that `aq.scan` reads.
        text: What it reads: a text, or several. None: one that comes with arrowquant. A model
            without a tokenizer reads random tokens.
        tokens: How many, in chunks of 256 that do not see each other. A shorter text gives fewer.
            0: none is read, and torch is not needed; the weights alone say it, for models like
            Llama. That is better than no table, and less good than one of a text.
        state: A file for what is done, block by block: a call that is stopped goes on from there.
        threads: As for `aq.quantize`. Sums of floats in torch may differ in their last digits with
            the number of threads.
        progress: True for a bar, or `callback(layer_name, fraction)`.

    Returns:
        `layer_name`; `importance`, the mean square of each input, a list of float32; `tokens`, how
        many it is of; `source`, the text. Each matrix of the blocks that multiplies an input has a
        row. An expert that saw fewer than 32 tokens has what all experts of its stack saw, and
        `source` says so.

    Raises:
        ImportError: torch, transformers or accelerate is not installed.
        OSError: A file can't be read or written.
        ValueError: transformers does not know the architecture, or its model has other parameters
            than the checkpoint.
    """
    folder = user_path(model)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: importance takes a Hugging Face directory.")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        raise ValueError(f"tokens must be at least 0, got {tokens!r}.")
    if tokens == 0:
        if (found_alone := propagated(folder)) is not None:
            return found_alone
        raise ValueError(
            f"{folder}: of this model the weights alone say nothing; that is known for "
            f"{', '.join(sorted(KINDS))}, if layers have the usual names and shapes, and their "
            "weights are finite. Give tokens, or quantize the model without importance."
        )
    torch, *_ = (needed(name, WHAT, _EXTRA) for name in ("torch", "transformers", "accelerate"))
    before = torch.get_num_threads()
    torch.set_num_threads(_core.thread_count(threads))
    try:
        skeleton = Skeleton.of(folder)
        with _refusing(folder):
            ids, source = _tokens(folder, skeleton.config, text, tokens)
        run = _Run(skeleton, ids, None if state is None else user_path(state))
        with listener(progress, unit="layers") as report, torch.inference_mode():
            found = run.all(report, folder)
    finally:
        torch.set_num_threads(before)
    return _table(found, source)


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Say that a model is none of those that can be run, where it fails for what it is."""
    try:
        yield
    except (
        AttributeError,
        IndexError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
    ) as error:
        kind = type(error).__name__
        raise ValueError(
            f"{folder}: the model does not run on text: {kind}: {first_line(error)} {WITHOUT}"
        ) from error


def _table(found: dict[str, Seen], source: str) -> pa.Table:
    """The means, sorted by name; of experts that saw little, those of their stacks.

    A layer whose inputs are no finite numbers has no row.
    """
    stacks: dict[str, Seen] = {}
    for name, seen in found.items():
        stack = _EXPERT.sub("*", name)
        stacks[stack] = seen + stacks[stack] if stack in stacks else seen
    rows = []
    for name, seen in sorted(found.items()):
        stack = _EXPERT.sub("*", name)
        has_own = stack == name or seen.tokens >= _FEW
        used = seen if has_own else stacks[stack]
        if used.tokens:
            with np.errstate(over="ignore"):
                mean = (used.sums / used.tokens).astype(np.float32)
            text = source if has_own else f"{source}, the mean of its stack"
            if says_something(mean):
                rows.append((name, mean, seen.tokens, text))
    if not rows:
        raise ValueError(
            f"no layer's inputs are finite numbers, so some weights can't be either. {WITHOUT}"
        )
    columns = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(SCHEMA)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _tokens(folder: Path, config: Any, text: Any, count: int) -> tuple[Any, str]:
    """Token ids, `[chunks, tokens of a chunk]`, and what they are of."""
    torch, transformers = (needed(name, WHAT) for name in ("torch", "transformers"))
    # Without files, transformers makes one up.
    if not any(list(folder.glob(pattern)) for pattern in _TOKENIZERS):
        if text is not None:
            raise ValueError(
                f"{folder}: has no tokenizer for the text. Leave the text out: random tokens are "
                "read then."
            )
        generator = torch.Generator().manual_seed(_SEED)
        size = config.get_text_config().vocab_size
        return _chunks(torch.randint(size, (count,), generator=generator), config), "random tokens"
    with _quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if text is None:
        texts, source = (
            [files(__package__).joinpath("text.txt").read_text("utf-8")],
            "built-in text",
        )
    else:
        texts = [text] if isinstance(text, str) else list(text)
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
        source = f"text of SHA-256 {digest}"
    with _quiet():
        ids = [
            number
            for one in texts
            for number in tokenizer(one, add_special_tokens=False)["input_ids"]
        ]
    if not ids:
        raise ValueError("the text has no tokens.")
    return _chunks(torch.tensor(ids[:count]), config), source


def _chunks(ids: Any, config: Any) -> Any:
    """Chunks of equal length; what is left over after the last is left out."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None) or CHUNK
    length = min(CHUNK, most, len(ids))
    return ids[: len(ids) // length * length].reshape(-1, length)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers prints of progress and of texts that are long."""
    logging = needed("transformers.utils.logging", WHAT)

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@dataclass(frozen=True)
class _Place:
    """A matrix, or a stack of such, that is in memory."""

    names: list[list[str]]
    """What the checkpoint calls it, for each expert: several where it has them apart."""
    stride: int
    """Elements from one matrix of a stack to the next."""


def _noting(note: Any) -> Any:
    """While it is entered, `note` hears of each input and weight that are multiplied."""
    torch, overrides = (needed(name, WHAT) for name in ("torch", "torch.overrides"))

    class Noting(overrides.TorchFunctionMode):  # type: ignore[misc, name-defined]
        def __torch_function__(
            self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.nn.functional.linear:
                note(args[0], args[1])
            return func(*args, **(kwargs or {}))

    return Noting()


@dataclass
class _Run:
    """A pass over the blocks."""

    skeleton: Skeleton
    ids: Any
    state: Path | None
    found: dict[str, Seen] = field(default_factory=dict)
    done: int = 0
    """Blocks that are done."""
    hidden: Any = None
    """What came out of the last of these."""
    is_tuple: bool = False
    """Whether blocks hand out tuples."""
    _places: dict[int, _Place] = field(default_factory=dict)
    _last: tuple[Any, Any] = (None, None)
    """The last input, and what was seen of it."""

    def all(self, report: Any, folder: Path) -> dict[str, Seen]:
        """Run all blocks."""
        skeleton, model = self.skeleton, self.skeleton.model
        path = next(name for name, m in model.named_modules() if m is skeleton.blocks)
        self._resume()
        skeleton.fill(model, "", but=f"{path}.")
        count, hooks, noting = len(skeleton.blocks), [], _noting(self._note)
        for at, block in enumerate(skeleton.blocks):
            if at < self.done:
                block.forward = self._again(at)
                continue
            hooks += self._watch(at, block, f"{path}.{at}.", count, report)
        try:
            with noting, _refusing(folder):
                model(input_ids=self.ids, **({"use_cache": False} if self._has_cache() else {}))
        finally:
            for hook in hooks:
                hook.remove()
        if not any(seen.tokens for seen in self.found.values()):
            raise ValueError(
                f"the blocks of {type(model).__name__} have no linear layers. {WITHOUT}"
            )
        if self.state is not None:
            self.state.unlink(missing_ok=True)
        return self.found

    def _has_cache(self) -> bool:
        return hasattr(self.skeleton.config.get_text_config(), "use_cache")

    def _watch(self, at: int, block: Any, prefix: str, count: int, report: Any) -> list[Any]:
        """Have a block read its weights, its layers note their inputs, and all be let go."""

        def begin(_module: Any, _inputs: Any) -> None:
            self.skeleton.fill(block, prefix)
            self._places = dict(self._matrices(block, prefix))

        def end(_module: Any, _inputs: Any, output: Any) -> None:
            self._last, self._places = (None, None), {}
            self.skeleton.drop(block)
            self.done = at + 1
            self._save(output)
            if report is not None:
                report(True, prefix.rstrip("."), (at + 1) / count, at + 1)

        return [block.register_forward_pre_hook(begin), block.register_forward_hook(end)]

    def _matrices(self, block: Any, prefix: str) -> Iterator[tuple[int, _Place]]:
        """A block's matrices and stacks of such, by where they lie in memory."""
        for path, owner in block.named_modules():
            dot = f"{prefix}{path}." if path else prefix
            for leaf, values in owner._parameters.items():
                if values is None or values.dim() not in {_STACK - 1, _STACK}:
                    continue
                names = self.skeleton.names[dot + leaf]
                experts = range(values.shape[0]) if values.dim() == _STACK else range(1)
                own = [[names] if isinstance(names, str) else names.of(at) for at in experts]
                yield values.data_ptr(), _Place(own, values.stride(0))
                nothing = Seen(np.zeros(values.shape[-1]), 0)
                for name in itertools.chain.from_iterable(own):
                    if _EXPERT.search(name):
                        self.found.setdefault(name, nothing)

    def _note(self, values: Any, weight: Any) -> None:
        """Add up the squares of what a matrix is multiplied with."""
        place = self._places.get(weight.untyped_storage().data_ptr())
        if place is None or not values.numel():
            return
        # Layers that share an input share its numbers.
        if self._last[0] is not values:
            rows = values.detach().reshape(-1, values.shape[-1]).double()
            self._last = (values, Seen(rows.square_().sum(0).numpy(), len(rows)))
        seen = self._last[1]
        for name in place.names[weight.storage_offset() // place.stride % len(place.names)]:
            before = self.found.get(name)
            self.found[name] = seen if before is None or not before.tokens else before + seen

    def _again(self, at: int) -> Any:
        """What stands for a block that is done: the last one says what came out."""

        def forward(hidden: Any, *_: Any, **__: Any) -> Any:
            found = self.hidden if at + 1 == self.done else hidden
            return (found,) if self.is_tuple else found

        return forward

    @property
    def _digest(self) -> str:
        files = "".join(f"{file}" for file in self.skeleton.weights.files())
        return hashlib.sha256(files.encode() + b"sums" + self.ids.numpy().tobytes()).hexdigest()

    def _save(self, output: Any) -> None:
        if self.state is None:
            return
        is_tuple = isinstance(output, tuple)
        hidden = (output[0] if is_tuple else output).numpy()
        said = np.array([self._digest, str(self.done), str(int(is_tuple))])
        values: dict[str, Any] = {
            f"layer:{name}": np.append(seen.sums, seen.tokens) for name, seen in self.found.items()
        }
        memory = io.BytesIO()
        np.savez(memory, said=said, hidden=hidden, **values)
        with replacing(self.state) as temporary:
            temporary.write_bytes(memory.getbuffer())

    def _resume(self) -> None:
        """Take over what an earlier call did, if it was of the same model and text."""
        torch = needed("torch", WHAT)
        if self.state is None or not self.state.exists():
            return
        try:
            with np.load(self.state, allow_pickle=False) as saved:
                digest, done, is_tuple = saved["said"].tolist()
                if digest != self._digest:
                    return
                self.hidden = torch.from_numpy(saved["hidden"])
                layers = [name for name in saved.files if name.startswith("layer:")]
                self.found = {
                    name.removeprefix("layer:"): Seen(saved[name][:-1], int(saved[name][-1]))
                    for name in layers
                }
                self.done, self.is_tuple = int(done), is_tuple == "1"
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.state}: is no state of this job ({error}). Remove it."
            ) from error
