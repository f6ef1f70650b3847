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
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._files import replacing, user_path
from arrowquant._importance import SCHEMA
from arrowquant._importance.imatrix import needed
from arrowquant._progress import ProgressCallback, listener
from arrowquant._scan import Scan, scan

Array = np.ndarray[Any, Any]
CHUNK = 256
"""Tokens that see each other."""
_SEED = 0
_WHAT = "finding importance"
_TOKENIZERS = ("tokenizer.*", "vocab.*", "merges.txt", "spiece.model", "*.tiktoken")
_EXTRA = "'arrowquantize[calibrate]'"


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
        state: A file for what is done, block by block: a call that is stopped goes on from there.
        threads: As for `aq.quantize`. Sums of floats in torch may differ in their last digits with
            the number of threads.
        progress: True for a bar, or `callback(layer_name, fraction)`.

    Returns:
        `layer_name`; `importance`, the mean square of each input, a list of float32; `tokens`, how
        many it is of; `source`, the text. Layers of blocks that are `torch.nn.Linear` have a row.

    Raises:
        ImportError: torch, transformers or accelerate is not installed.
        OSError: A file can't be read or written.
        ValueError: transformers does not know the architecture, or its model has other parameters
            than the checkpoint.
    """
    folder = user_path(model)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: importance takes a Hugging Face directory.")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"tokens must be at least 1, got {tokens!r}.")
    torch, *_ = (needed(name, _WHAT, _EXTRA) for name in ("torch", "transformers", "accelerate"))
    before = torch.get_num_threads()
    torch.set_num_threads(_core.thread_count(threads))
    try:
        skeleton = _Skeleton.of(folder)
        ids, source = _tokens(folder, skeleton.config, text, tokens)
        run = _Run(skeleton, ids, None if state is None else user_path(state))
        with listener(progress, unit="layers") as report, torch.inference_mode():
            found = run.all(report)
    finally:
        torch.set_num_threads(before)
    names = sorted(found)
    columns = [
        pa.array(names, pa.string()),
        pa.array([found[name] for name in names], SCHEMA.field("importance").type),
        pa.array([ids.numel()] * len(names), pa.int64()),
        pa.array([source] * len(names), pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _tokens(folder: Path, config: Any, text: Any, count: int) -> tuple[Any, str]:
    """Token ids, `[chunks, tokens of a chunk]`, and what they are of."""
    torch, transformers = (needed(name, _WHAT) for name in ("torch", "transformers"))
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
    logging = needed("transformers.utils.logging", _WHAT)

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0].strip()
    return text if text.endswith(".") else f"{text}."


@dataclass
class _Skeleton:
    """A model of transformers without weights, and where its weights are."""

    config: Any
    model: Any
    """Without its head."""
    blocks: Any
    names: dict[str, str]
    """What the checkpoint calls each of its parameters and kept buffers."""
    weights: Scan

    @staticmethod
    def of(folder: Path) -> _Skeleton:
        """Make it.

        Raises:
            ValueError: It can't be made, or lacks weights.
        """
        torch, transformers = (needed(name, _WHAT) for name in ("torch", "transformers"))
        empty = needed("accelerate", _WHAT).init_empty_weights

        try:
            config = transformers.AutoConfig.from_pretrained(folder)
            name = (getattr(config, "architectures", None) or [""])[0]
            kind = getattr(transformers, name, None)
            with empty(include_buffers=False):
                whole = (
                    kind._from_config(config)
                    if kind
                    else transformers.AutoModel.from_config(config)
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise ValueError(
                f"{folder}: transformers {transformers.__version__} can't make the model: "
                f"{_first_line(error)} {_WITHOUT}"
            ) from error
        model = whole.base_model.eval()
        lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
        sizes = [sum(p.numel() for p in blocks.parameters()) for blocks in lists]
        if not lists:
            raise ValueError(f"{folder}: {type(model).__name__} has no blocks. {_WITHOUT}")
        weights = scan(folder)
        names = _names(folder, whole, model, set(weights.layer_names))
        return _Skeleton(config, model, lists[int(np.argmax(sizes))], names, weights)

    def fill(self, module: Any, prefix: str, *, but: str | None = None) -> None:
        """Read the parameters of a module; `but` not those of modules of that prefix."""
        torch = needed("torch", _WHAT)
        for name, slot in _slots(module):
            full = f"{prefix}{name}"
            if but is not None and full.startswith(but):
                continue
            array = np.asarray(self.weights[self.names[full]])
            values = torch.from_numpy(np.array(array, np.float32))
            owner, leaf = slot
            wanted = getattr(owner, leaf).shape
            if values.shape != wanted:
                raise ValueError(
                    f"layer '{self.names[full]}' has shape {list(values.shape)}, and transformers "
                    f"wants {list(wanted)}. {_WITHOUT}"
                )
            if leaf in owner._parameters:
                owner._parameters[leaf] = torch.nn.Parameter(values, requires_grad=False)
            else:
                owner._buffers[leaf] = values

    @staticmethod
    def drop(module: Any) -> None:
        """Let the parameters of a module go."""
        torch = needed("torch", _WHAT)
        for _, (owner, leaf) in _slots(module):
            if leaf in owner._parameters:
                empty = owner._parameters[leaf].to("meta")
                owner._parameters[leaf] = torch.nn.Parameter(empty, requires_grad=False)


_WITHOUT = "Quantize the model without importance."


def _slots(module: Any) -> Iterator[tuple[str, tuple[Any, str]]]:
    """The parameters and kept buffers of a module, with the modules that hold them."""
    for path, owner in module.named_modules():
        dot = f"{path}." if path else ""
        kept = [name for name in owner._buffers if name not in owner._non_persistent_buffers_set]
        for leaf in [*owner._parameters, *kept]:
            if getattr(owner, leaf) is not None:
                yield dot + leaf, (owner, leaf)


def _names(folder: Path, whole: Any, model: Any, stored: set[str]) -> dict[str, str]:
    """The checkpoint's names of the parameters, with the model's own prefix or without."""
    prefix = next((f"{path}." for path, m in whole.named_modules() if m is model and path), "")
    usual = f"{whole.base_model_prefix}." if whole.base_model_prefix else ""
    found, lacking = {}, []
    for name, _ in _slots(model):
        likely = [prefix + name, usual + name, name]
        known = next((candidate for candidate in likely if candidate in stored), None)
        if known is None:
            lacking.append(name)
        else:
            found[name] = known
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ValueError(
            f"{folder}: transformers' {type(model).__name__} has '{lacking[0]}'{more}, and the "
            "checkpoint has no tensor of that name: the architecture stores it otherwise. "
            f"{_WITHOUT}"
        )
    return found


@dataclass
class _Run:
    """A pass over the blocks."""

    skeleton: _Skeleton
    ids: Any
    state: Path | None
    found: dict[str, Array] = field(default_factory=dict)
    done: int = 0
    """Blocks that are done."""
    hidden: Any = None
    """What came out of the last of these."""
    is_tuple: bool = False
    """Whether blocks hand out tuples."""

    def all(self, report: Any) -> dict[str, Array]:
        """Run all blocks."""
        torch = needed("torch", _WHAT)
        skeleton, model = self.skeleton, self.skeleton.model
        path = next(name for name, m in model.named_modules() if m is skeleton.blocks)
        self._resume()
        skeleton.fill(model, "", but=f"{path}.")
        count, hooks = len(skeleton.blocks), []
        for at, block in enumerate(skeleton.blocks):
            if at < self.done:
                block.forward = self._again(at)
                continue
            hooks += self._watch(at, block, f"{path}.{at}.", count, report)
        if not any(isinstance(m, torch.nn.Linear) for m in skeleton.blocks.modules()):
            raise ValueError(
                f"the blocks of {type(model).__name__} have no linear layers. {_WITHOUT}"
            )
        try:
            model(input_ids=self.ids, **({"use_cache": False} if self._has_cache() else {}))
        finally:
            for hook in hooks:
                hook.remove()
        if self.state is not None:
            self.state.unlink(missing_ok=True)
        return self.found

    def _has_cache(self) -> bool:
        return hasattr(self.skeleton.config.get_text_config(), "use_cache")

    def _watch(self, at: int, block: Any, prefix: str, count: int, report: Any) -> list[Any]:
        """Have a block read its weights, its layers note their inputs, and all be let go."""
        torch = needed("torch", _WHAT)
        names = self.skeleton.names
        last: list[Any] = [None, None]

        def begin(_module: Any, _inputs: Any) -> None:
            self.skeleton.fill(block, prefix)

        def note(name: str) -> Any:
            def noted(_module: Any, inputs: Any) -> None:
                # Layers that share an input share its numbers.
                if last[0] is not inputs[0]:
                    values = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
                    last[:] = [inputs[0], values.square_().mean(0).numpy().astype(np.float32)]
                self.found[names[f"{prefix}{name}.weight"]] = last[1]

            return noted

        def end(_module: Any, _inputs: Any, output: Any) -> None:
            last[:] = [None, None]
            self.skeleton.drop(block)
            self.done = at + 1
            self._save(output)
            if report is not None:
                report(True, prefix.rstrip("."), (at + 1) / count, at + 1)

        hooks = [block.register_forward_pre_hook(begin)]
        for name, module in block.named_modules():
            if isinstance(module, torch.nn.Linear):
                hooks.append(module.register_forward_pre_hook(note(name)))
        return [*hooks, block.register_forward_hook(end)]

    def _again(self, at: int) -> Any:
        """What stands for a block that is done: the last one says what came out."""

        def forward(hidden: Any, *_: Any, **__: Any) -> Any:
            found = self.hidden if at + 1 == self.done else hidden
            return (found,) if self.is_tuple else found

        return forward

    @property
    def _digest(self) -> str:
        files = "".join(f"{file}" for file in self.skeleton.weights.files())
        return hashlib.sha256(files.encode() + self.ids.numpy().tobytes()).hexdigest()

    def _save(self, output: Any) -> None:
        if self.state is None:
            return
        is_tuple = isinstance(output, tuple)
        hidden = (output[0] if is_tuple else output).numpy()
        said = np.array([self._digest, str(self.done), str(int(is_tuple))])
        values: dict[str, Any] = {f"layer:{name}": array for name, array in self.found.items()}
        memory = io.BytesIO()
        np.savez(memory, said=said, hidden=hidden, **values)
        with replacing(self.state) as temporary:
            temporary.write_bytes(memory.getbuffer())

    def _resume(self) -> None:
        """Take over what an earlier call did, if it was of the same model and text."""
        torch = needed("torch", _WHAT)
        if self.state is None or not self.state.exists():
            return
        try:
            with np.load(self.state, allow_pickle=False) as saved:
                digest, done, is_tuple = saved["said"].tolist()
                if digest != self._digest:
                    return
                self.hidden = torch.from_numpy(saved["hidden"])
                layers = [name for name in saved.files if name.startswith("layer:")]
                self.found = {name.removeprefix("layer:"): saved[name] for name in layers}
                self.done, self.is_tuple = int(done), is_tuple == "1"
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.state}: is no state of this job ({error}). Remove it."
            ) from error
