#!/usr/bin/env python3
"""Writes a checkpoint of random weights, for benchmarks: its text means nothing.

  python tools/make_random_checkpoint.py OUT [--shape llama-1b|llama-8b|llama-90b-tp8|tiny] [--weights bf16|int4]
                                         [--tokenizer DIR]

llama-90b-tp8 is what one of 8 tensor parallel ranks holds of Llama 3.2 90B, as a model of its own: all layers, an eighth
of the heads, of the feed-forward and of the vocabulary. int4 is GPTQ's layout with groups of 128 columns; embeddings and
lm_head stay bf16, as in such checkpoints. The tokenizer files are copied from DIR (default models/pilot), so that the
whole server runs on it, with filler tokens up to the shape's vocabulary.
"""

import argparse
import json
import math
import pathlib
import random
import shutil
import struct

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
    # The text part, its cross attention taken for attention, as large.
    "llama-90b-tp8": dict(hidden_size=8192, intermediate_size=28672 // 8, num_hidden_layers=100,
                          num_attention_heads=64 // 8, num_key_value_heads=8 // 8, head_dim=128,
                          vocab_size=128256 // 8, tie_word_embeddings=False),
    "tiny": dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=16,
                 num_key_value_heads=4, head_dim=32, vocab_size=4096, tie_word_embeddings=True),
}
GROUP = 128
QUANTIZATION = dict(quant_method="gptq", bits=4, group_size=GROUP, desc_act=False, sym=True, checkpoint_format="gptq")


def matrices(config):
    """(name, rows, columns) of a layer's, in file order."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    yield "self_attn.q_proj", q, hidden
    yield "self_attn.k_proj", kv, hidden
    yield "self_attn.v_proj", kv, hidden
    yield "self_attn.o_proj", hidden, q
    yield "mlp.gate_proj", inner, hidden
    yield "mlp.up_proj", inner, hidden
    yield "mlp.down_proj", hidden, inner


def tensors(config):
    """(name, type, shape, bytes that its values are taken from) of every tensor, in file order."""
    pool = Pool(config["seed"])
    hidden = config["hidden_size"]
    norm = "BF16", (hidden,), struct.pack("<H", 0x3F80)
    embedding = "BF16", (config["vocab_size"], hidden), pool.bf16(hidden)
    yield "model.embed_tokens.weight", *embedding
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", *norm
        yield f"{layer}.post_attention_layernorm.weight", *norm
        for name, rows, columns in matrices(config):
            if "quantization_config" not in config:
                yield f"{layer}.{name}.weight", "BF16", (rows, columns), pool.bf16(columns)
                continue
            groups = columns // GROUP
            yield f"{layer}.{name}.qweight", "I32", (columns // 8, rows), pool.bits
            yield f"{layer}.{name}.qzeros", "I32", (groups, rows // 8), b"\x77"  # 8, less one
            scale = columns ** -0.5 / math.sqrt(21.5)  # of what is from -8 to 7
            yield f"{layer}.{name}.scales", "F16", (groups, rows), struct.pack("<e", scale)
    yield "model.norm.weight", *norm
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", *embedding


class Pool:
    """Random bytes that every tensor repeats: to draw all would take longer than to write them."""

    def __init__(self, seed):
        self.bits = random.Random(seed).randbytes((1 << 24) + 1022)  # tensors do not repeat it alike
        self._bf16 = {}

    def bf16(self, columns):
        """Both signs, magnitudes around columns ** -0.5."""
        if columns not in self._bf16:
            # The upper byte has the sign and all but the last bit of the exponent, which stays random.
            exponent = (126 - math.ceil(math.log2(columns) / 2)) // 2
            values = bytearray(self.bits)
            values[1::2] = values[1::2].translate(bytes(byte & 0x80 | exponent for byte in range(256)))
            self._bf16[columns] = bytes(values)
        return self._bf16[columns]


def write_repeated(file, pattern, size):
    """`size` bytes of the pattern, going on where it stopped."""
    pattern = memoryview(pattern * (1 if len(pattern) > 4096 else 4096))
    at = file.tell() % len(pattern) & ~1
    while size > 0:
        part = pattern[at:at + size]
        file.write(part)
        size -= len(part)
        at = 0


def write_tokenizer(source, out, vocab_size):
    """The tokenizer, with filler tokens that no text gives: a tokenizer must fit its model."""
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, out / name)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    used = max(list(vocab.values()) + [token["id"] for token in tokenizer["added_tokens"]]) + 1
    for token in range(used, vocab_size):
        vocab[f"<filler{token}>"] = token
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))


def write_checkpoint(out, shape, weights="bf16", tokenizer=ROOT / "models" / "pilot", seed=0):
    """Returns the bytes of the weights."""
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu",
                  max_position_embeddings=16384, rms_norm_eps=1e-5, rope_theta=500000.0,
                  torch_dtype="bfloat16", **SHAPES[shape])
    if weights == "int4":
        config["quantization_config"] = QUANTIZATION
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tokenizer(tokenizer, out, config["vocab_size"])
    header, sizes, offset = {}, [], 0
    for name, kind, dimensions, pattern in tensors({**config, "seed": seed}):
        size = {"BF16": 2, "F16": 2, "I32": 4}[kind] * math.prod(dimensions)
        header[name] = {"dtype": kind, "shape": list(dimensions), "data_offsets": [offset, offset + size]}
        sizes.append((pattern, size))
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(out / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for pattern, size in sizes:
            write_repeated(file, pattern, size)
    return offset


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="llama-1b")
    parser.add_argument("--weights", choices=["bf16", "int4"], default="bf16")
    parser.add_argument("--tokenizer", type=pathlib.Path, default=ROOT / "models" / "pilot")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    size = write_checkpoint(arguments.out, arguments.shape, arguments.weights, arguments.tokenizer, arguments.seed)
    print(f"{arguments.out}: {arguments.shape}, {arguments.weights}, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
