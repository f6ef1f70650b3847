"""Train a small language model of bytes: `python bench/make_bytes.py DIR`. Minutes; needs torch.

A Llama of four blocks, for judging searches on a model that nothing was tuned on, and whose weights
were never quantized. It reads the source of the standard library; docstrings are for judging it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import math
import sysconfig
from pathlib import Path
from typing import Any

_LENGTH, _BATCH, _STEPS = 256, 8, 600
_SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": _LENGTH,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def _source() -> bytes:
    """Modules of the standard library without their docstrings."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            is_documented = isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and ast.get_docstring(node)
            if is_documented:
                node.body[0] = ast.Pass()  # type: ignore[attr-defined]
        found.append(ast.unparse(tree))
    return "\n".join(found).encode()


def _save_tokenizer(folder: Path) -> None:
    tokenizers, transformers = map(importlib.import_module, ("tokenizers", "transformers"))
    level = tokenizers.pre_tokenizers.ByteLevel
    alphabet = {byte: at for at, byte in enumerate(sorted(level.alphabet()))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(alphabet, merges=[]))
    tokenizer.pre_tokenizer = level(add_prefix_space=False, use_regex=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def main() -> None:
    """Train it, and save it as a Hugging Face directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch, transformers = map(importlib.import_module, ("torch", "transformers"))
    torch.manual_seed(0)
    _save_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(tokenizer(_source().decode())["input_ids"])
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SIZES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    for step in range(_STEPS):
        rate = min(1.0, (step + 1) / 100) * (0.55 + 0.45 * math.cos(math.pi * step / _STEPS))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate
        starts = torch.randint(len(ids) - _LENGTH, (_BATCH,)).tolist()
        batch = torch.stack([ids[start : start + _LENGTH] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
