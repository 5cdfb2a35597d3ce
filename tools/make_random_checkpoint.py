#!/usr/bin/env python3
"""Writes a checkpoint of random bf16 weights, for benchmarks: its text means nothing.

  python tools/make_random_checkpoint.py OUT [--shape llama-1b|llama-8b|tiny] [--tokenizer DIR]

Needs numpy. The tokenizer files are copied from DIR (default models/pilot), so that the whole server
runs on it, with filler tokens up to the shape's vocabulary.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent

SHAPES = {
    # Llama 3.2 1B
    "llama-1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                     num_attention_heads=32, num_key_value_heads=8, head_dim=64, vocab_size=128256,
                     tie_word_embeddings=True),
    # Llama 3.1 8B
    "llama-8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                     num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=128256,
                     tie_word_embeddings=False),
    "tiny": dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=16,
                 num_key_value_heads=4, head_dim=32, vocab_size=4096, tie_word_embeddings=True),
}


def tensors(config):
    """(name, shape) of every weight, in file order."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.self_attn.q_proj.weight", (q, hidden)
        yield f"{layer}.self_attn.k_proj.weight", (kv, hidden)
        yield f"{layer}.self_attn.v_proj.weight", (kv, hidden)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, q)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield f"{layer}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.up_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def write_tokenizer(source, out, vocab_size):
    """The tokenizer, with filler tokens that no text gives: a tokenizer must fit its model."""
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    used = max(list(vocab.values()) + [token["id"] for token in tokenizer["added_tokens"]]) + 1
    for token in range(used, vocab_size):
        vocab[f"<filler{token}>"] = token
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))


def bf16_bytes(shape, generator):
    if len(shape) == 1:
        return np.full(shape, 0x3F80, np.uint16).tobytes()  # norms: 1.0
    values = generator.standard_normal(shape, np.float32) * (shape[1] ** -0.5)
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="llama-1b")
    parser.add_argument("--tokenizer", type=pathlib.Path, default=ROOT / "models" / "pilot")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
                  max_position_embeddings=16384, rms_norm_eps=1e-5, rope_theta=500000.0,
                  torch_dtype="bfloat16", **SHAPES[arguments.shape])
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copy(arguments.tokenizer / name, arguments.out / name)
    write_tokenizer(arguments.tokenizer, arguments.out, config["vocab_size"])
    header, offset = {}, 0
    for name, shape in tensors(config):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(arguments.seed)
    with open(arguments.out / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors(config):
            file.write(bf16_bytes(shape, generator))
    print(f"{arguments.out}: {arguments.shape}, {offset / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
