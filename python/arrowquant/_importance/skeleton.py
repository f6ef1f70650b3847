"""A model of transformers without its weights, and what a checkpoint calls these."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arrowquant._importance.imatrix import matrix, needed
from arrowquant._scan import Scan, scan

Array = np.ndarray[Any, Any]
WHAT = "finding importance"
"""What a missing package is needed for."""
WITHOUT = "Quantize the model without importance."
"""What to do with a model that can't be run."""
_MAPPING = "transformers.conversion_mapping"
"""Where transformers that have experts in stacks say how these are stored."""


@dataclass(frozen=True)
class Experts:
    """A parameter `[experts, outputs, inputs]` of which the checkpoint has each matrix by itself.

    Those of `parts[0]`, by expert, come first along the outputs, then those of `parts[1]`.
    """

    parts: tuple[tuple[str, ...], ...]

    def of(self, expert: int) -> list[str]:
        return [part[expert] for part in self.parts]


@dataclass
class Skeleton:
    """A model of transformers without weights, and where its weights are."""

    config: Any
    model: Any
    """Without its head."""
    blocks: Any
    names: dict[str, str | Experts]
    """What the checkpoint calls each of its parameters and kept buffers."""
    weights: Scan

    @staticmethod
    def of(folder: Path) -> Skeleton:
        """Make it.

        Raises:
            ValueError: It can't be made, or lacks weights.
        """
        torch, transformers = (needed(name, WHAT) for name in ("torch", "transformers"))
        empty = needed("accelerate", WHAT).init_empty_weights

        try:
            config = transformers.AutoConfig.from_pretrained(folder)
            # Each expert by itself, so that its tokens are seen.
            has_stacks = importlib.util.find_spec(_MAPPING) is not None
            eager = {"experts_implementation": "eager"} if has_stacks else {}
            name = (getattr(config, "architectures", None) or [""])[0]
            kind = getattr(transformers, name, None)
            with empty(include_buffers=False):
                whole = (
                    kind._from_config(config, **eager)
                    if kind
                    else transformers.AutoModel.from_config(config, **eager)
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise ValueError(
                f"{folder}: transformers {transformers.__version__} can't make the model: "
                f"{first_line(error)} {WITHOUT}"
            ) from error
        model = whole.base_model.eval()
        lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
        sizes = [sum(p.numel() for p in blocks.parameters()) for blocks in lists]
        if not lists:
            raise ValueError(f"{folder}: {type(model).__name__} has no blocks. {WITHOUT}")
        weights = scan(folder)
        names = _names(folder, config, whole, model, weights.layer_names)
        return Skeleton(config, model, lists[int(np.argmax(sizes))], names, weights)

    def fill(self, module: Any, prefix: str, *, but: str | None = None) -> None:
        """Read the parameters of a module; `but` not those of modules of that prefix."""
        torch = needed("torch", WHAT)
        for name, (owner, leaf) in _slots(module):
            full = f"{prefix}{name}"
            if but is not None and full.startswith(but):
                continue
            shape = tuple(getattr(owner, leaf).shape)
            values = torch.empty(shape, dtype=torch.float32)
            self._read(self.names[full], values.numpy())
            if leaf in owner._parameters:
                owner._parameters[leaf] = torch.nn.Parameter(values, requires_grad=False)
            else:
                owner._buffers[leaf] = values

    def _read(self, names: str | Experts, out: Array) -> None:
        """Read a parameter as float32."""
        if isinstance(names, str):
            values = self.weights[names]
            _check_shape(names, values.shape, out.shape)
            out[...] = values
            return
        parts = [[self.weights[name] for name in part] for part in names.parts]
        outputs = sum(len(part[0]) for part in parts)
        _check_shape(names, (len(parts[0]), outputs, *parts[0][0].shape[1:]), out.shape)
        first = 0
        for part in parts:
            for expert, values in enumerate(part):
                out[expert, first : first + len(values)] = values
            first += len(part[0])

    @staticmethod
    def drop(module: Any) -> None:
        """Let the parameters of a module go."""
        torch = needed("torch", WHAT)
        for _, (owner, leaf) in _slots(module):
            if leaf in owner._parameters:
                empty = torch.empty_like(owner._parameters[leaf], device="meta")
                owner._parameters[leaf] = torch.nn.Parameter(empty, requires_grad=False)
        _trim()


@functools.cache
def _trim_of_libc() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def _trim() -> None:
    """Have glibc give back what was freed: it keeps much of it, more with every block."""
    if (trim := _trim_of_libc()) is not None:
        trim(0)


def _check_shape(names: str | Experts, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise ValueError(
            f"layer '{names}' has shape {list(shape)}, and transformers wants {list(wanted)}. "
            f"{WITHOUT}"
        )


def _slots(module: Any) -> Iterator[tuple[str, tuple[Any, str]]]:
    """The parameters and kept buffers of a module, with the modules that hold them."""
    for path, owner in module.named_modules():
        dot = f"{path}." if path else ""
        kept = [name for name in owner._buffers if name not in owner._non_persistent_buffers_set]
        for leaf in [*owner._parameters, *kept]:
            if getattr(owner, leaf) is not None:
                yield dot + leaf, (owner, leaf)


def _names(
    folder: Path, config: Any, whole: Any, model: Any, stored: Sequence[str]
) -> dict[str, str | Experts]:
    """The checkpoint's names of the parameters, with the model's own prefix or without."""
    prefix = next((f"{path}." for path, m in whole.named_modules() if m is model and path), "")
    usual = f"{whole.base_model_prefix}." if whole.base_model_prefix else ""
    found, lacking = {}, []
    known = _known(config, stored)
    for name, _ in _slots(model):
        likely = [prefix + name, usual + name, name]
        own = next((known[candidate] for candidate in likely if candidate in known), None)
        if own is None:
            lacking.append(name)
        else:
            found[name] = own
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ValueError(
            f"{folder}: transformers' {type(model).__name__} has '{lacking[0]}'{more}, and the "
            "checkpoint has no tensor of that name: the architecture stores it otherwise. "
            f"{WITHOUT}"
        )
    return found


def _known(config: Any, stored: Sequence[str]) -> dict[str, str | Experts]:
    """What is stored, by the names of transformers' parameters, and by its own ones."""
    found: dict[str, str | Experts] = {}
    stacks: dict[str, dict[int, dict[int, str]]] = {}
    for name in stored:
        stem, index = matrix(name)
        if stem != name:
            stacks.setdefault(stem, {}).setdefault(0, {})[index] = name
            continue
        renamed, place = _renamed(name, _conversions(config))
        if place is None:
            found[renamed] = name
        else:
            stacks.setdefault(renamed, {}).setdefault(place[0], {})[place[1]] = name
    for name, parts in stacks.items():
        ordered = [[one for _, one in sorted(part.items())] for _, part in sorted(parts.items())]
        found[name] = Experts(tuple(map(tuple, ordered)))
    # Its own names come first.
    return found | {name: name for name in stored}


@functools.cache
def _mapping(kind: str) -> tuple[Any, ...]:
    """How transformers' names and stacks of experts are made of a checkpoint's tensors."""
    try:
        mapping = importlib.import_module(_MAPPING)
    except ImportError:
        return ()
    return tuple(mapping.get_checkpoint_conversion_mapping(kind) or ())


def _conversions(config: Any) -> tuple[Any, ...]:
    kinds = dict.fromkeys([config.model_type, config.get_text_config().model_type])
    return tuple(one for kind in kinds for one in _mapping(kind))


def _renamed(name: str, conversions: Sequence[Any]) -> tuple[str, tuple[int, int] | None]:
    """The parameter that a tensor belongs to; with its part and expert, if it is one of a stack."""
    for one in conversions:
        operations = [type(each).__name__ for each in getattr(one, "operations", ())]
        target = one.target_patterns[0]
        for at, pattern in enumerate(one.source_patterns):
            if not operations:
                name = name.replace(pattern, target)
                continue
            numbered = re.escape(pattern).replace(r"\*", r"(\d+)")
            found = re.search(f"{numbered}$", name)
            is_stack = operations in (["MergeModulelist"], ["MergeModulelist", "Concatenate"])
            if found and found.groups() and is_stack:
                return name[: found.start()] + target, (at, int(found[1]))
    return name, None


def first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0].strip()
    return text if text.endswith(".") else f"{text}."
