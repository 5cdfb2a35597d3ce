#!/usr/bin/env python3
"""Golden logits of tiny random GGUF models, every architecture x every tensor type: tests/golden/gguf_matrix.json.

  python tools/make_gguf_matrix.py [--check-llama-cpp]

The models are not stored: tests/worker/gguf_matrix.cc writes the same bytes, whose rule is in random_blocks below. The
logits are of numpy in float64, on weights as the gguf package dequantises them. --check-llama-cpp also writes each
model to a file and prints how far llama.cpp is from them. Needs numpy and gguf.
"""

import argparse
import base64
import json
import pathlib
import tempfile

import gguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "gguf_matrix.json"

HIDDEN, INNER, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 256, 512, 96, 4, 2, 64
EXPERTS, EXPERTS_USED, WINDOW, CONTEXT, EPS = 4, 2, 8, 128, 1e-6
PROMPT = [(i * 37 + 11) % VOCAB for i in range(24)]

# For each type the f16 fields of a block, and their least bits: weights get a size of about 0.06.
SCALES = {"Q4_0": {0: 0x22A8}, "Q4_1": {0: 0x22A8, 2: 0xAE66}, "Q5_0": {0: 0x1EA8}, "Q5_1": {0: 0x1EA8, 2: 0xAE66},
          "Q8_0": {0: 0x128E}, "Q2_K": {80: 0x2019, 82: 0x2225}, "Q3_K": {108: 0x1625}, "Q4_K": {0: 0x0CEA, 2: 0x189C},
          "Q5_K": {0: 0x08EA, 2: 0x189C}, "Q6_K": {208: 0x0346}, "IQ4_NL": {0: 0x128E}}
TYPES = ["F32", "F16", "BF16", *SCALES]

ARCHITECTURES = {
    "llama": dict(arch="llama", layers=2, theta=500000.0, neox=False, tied=True),
    "mistral": dict(arch="llama", layers=2, theta=10000.0, neox=False, tied=False),
    "mixtral": dict(arch="llama", layers=2, theta=1000000.0, neox=False, tied=False, experts=True),
    "qwen2": dict(arch="qwen2", layers=2, theta=1000000.0, neox=True, tied=True, bias=True),
    "qwen3": dict(arch="qwen3", layers=2, theta=1000000.0, neox=True, tied=False, qk_norm=True),
    "gemma3": dict(arch="gemma3", layers=7, theta=1000000.0, neox=True, tied=True, qk_norm=True, gemma=True),
}


def tensors(model):
    """(name, shape, quantised) in file order; shapes are rows first."""
    yield "token_embd.weight", (VOCAB, HIDDEN), True
    for i in range(model["layers"]):
        layer = f"blk.{i}."
        yield layer + "attn_norm.weight", (HIDDEN,), False
        yield layer + "attn_q.weight", (HEADS * HEAD_DIM, HIDDEN), True
        yield layer + "attn_k.weight", (KV_HEADS * HEAD_DIM, HIDDEN), True
        yield layer + "attn_v.weight", (KV_HEADS * HEAD_DIM, HIDDEN), True
        yield layer + "attn_output.weight", (HIDDEN, HEADS * HEAD_DIM), True
        if model.get("bias"):
            yield layer + "attn_q.bias", (HEADS * HEAD_DIM,), False
            yield layer + "attn_k.bias", (KV_HEADS * HEAD_DIM,), False
            yield layer + "attn_v.bias", (KV_HEADS * HEAD_DIM,), False
        if model.get("qk_norm"):
            yield layer + "attn_q_norm.weight", (HEAD_DIM,), False
            yield layer + "attn_k_norm.weight", (HEAD_DIM,), False
        if model.get("gemma"):
            yield layer + "post_attention_norm.weight", (HIDDEN,), False
            yield layer + "post_ffw_norm.weight", (HIDDEN,), False
        yield layer + "ffn_norm.weight", (HIDDEN,), False
        if model.get("experts"):
            yield layer + "ffn_gate_inp.weight", (EXPERTS, HIDDEN), False
            yield layer + "ffn_gate_exps.weight", (EXPERTS, INNER, HIDDEN), True
            yield layer + "ffn_up_exps.weight", (EXPERTS, INNER, HIDDEN), True
            yield layer + "ffn_down_exps.weight", (EXPERTS, HIDDEN, INNER), True
        else:
            yield layer + "ffn_gate.weight", (INNER, HIDDEN), True
            yield layer + "ffn_up.weight", (INNER, HIDDEN), True
            yield layer + "ffn_down.weight", (HIDDEN, INNER), True
    yield "output_norm.weight", (HIDDEN,), False
    if not model["tied"]:
        yield "output.weight", (VOCAB, HIDDEN), True


def random_bytes(seed_text, count):
    """splitmix64 from the FNV-1a hash of a text, little endian."""
    state = 0xCBF29CE484222325
    for byte in seed_text.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    z = np.uint64(state) + np.arange(1, count // 8 + 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).view(np.uint8)[:count]


def random_blocks(seed_text, shape, kind):
    """The bytes of a tensor, rows first: random, but for the exponents of floats and the scales of blocks."""
    elements = int(np.prod(shape))
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = random_bytes(seed_text, elements // block * size)
    if len(shape) == 1:  # norms and biases: 1 to 1.5
        return ((data.view(np.uint32) & np.uint32(0x003FFFFF)) | np.uint32(0x3F800000)).view(np.uint8)
    if kind == "F32":  # sizes from 2^-7 to 2^-3
        bits = data.view(np.uint32)
        return ((bits & np.uint32(0x80FFFFFF)) | np.uint32(0x3C000000)).view(np.uint8)
    if kind == "BF16":
        bits = data.view(np.uint16)
        return ((bits & np.uint16(0x80FF)) | np.uint16(0x3C00)).view(np.uint8)
    if kind == "F16":
        bits = data.view(np.uint16)
        return ((bits & np.uint16(0x87FF)) | np.uint16(0x2800)).view(np.uint8)
    blocks = data.reshape(-1, size).copy()
    for offset, least in SCALES[kind].items():
        bits = np.uint16(least) + (blocks[:, offset] & np.uint8(0x7F)).astype(np.uint16)
        blocks[:, offset:offset + 2] = bits.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def build(name, kind):
    """{tensor: (shape, type, bytes)}"""
    result = {}
    for tensor, shape, quantised in tensors(ARCHITECTURES[name]):
        stored = kind if quantised else "F32"
        result[tensor] = (shape, stored, random_blocks(f"{name}/{kind}/{tensor}", shape, stored))
    return result


def dequantised(entry):
    shape, kind, data = entry
    rows = data.reshape(int(np.prod(shape[:-1])), -1)
    values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind])
    return values.astype(np.float64).reshape(shape)


def rms_norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def rope(x, theta, neox):
    """x: (tokens, heads, HEAD_DIM)"""
    angles = np.arange(len(x))[:, None] * theta ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    half = HEAD_DIM // 2
    first, second = (x[..., :half], x[..., half:]) if neox else (x[..., 0::2], x[..., 1::2])
    result = np.empty_like(x)
    rotated = first * cos - second * sin, first * sin + second * cos
    if neox:
        result[..., :half], result[..., half:] = rotated
    else:
        result[..., 0::2], result[..., 1::2] = rotated
    return result


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def activation(model, x):
    if model.get("gemma"):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x / (1 + np.exp(-x))


def attention(model, w, layer, x):
    tokens = len(x)
    q, k, v = (x @ w[f"blk.{layer}.attn_{name}.weight"].T for name in "qkv")
    if model.get("bias"):
        q, k, v = (y + w[f"blk.{layer}.attn_{name}.bias"] for y, name in zip((q, k, v), "qkv"))
    q, k, v = (y.reshape(tokens, -1, HEAD_DIM) for y in (q, k, v))
    if model.get("qk_norm"):
        q = rms_norm(q, w[f"blk.{layer}.attn_q_norm.weight"])
        k = rms_norm(k, w[f"blk.{layer}.attn_k_norm.weight"])
    windowed = model.get("gemma") and (layer + 1) % 6 != 0
    theta = 10000.0 if windowed else model["theta"]
    q, k = rope(q, theta, model["neox"]), rope(k, theta, model["neox"])
    k, v = (np.repeat(y, HEADS // KV_HEADS, axis=1) for y in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(HEAD_DIM)
    distance = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
    hidden = (distance < 0) | (bool(windowed) & (distance >= WINDOW))
    scores[:, hidden] = -np.inf
    mixed = np.einsum("hts,shd->thd", softmax(scores), v).reshape(tokens, -1)
    return mixed @ w[f"blk.{layer}.attn_output.weight"].T


def feed_forward(model, w, layer, x):
    part = lambda name: w[f"blk.{layer}.ffn_{name}.weight"]
    if not model.get("experts"):
        return (activation(model, x @ part("gate").T) * (x @ part("up").T)) @ part("down").T
    chances = softmax(x @ part("gate_inp").T)
    result = np.zeros_like(x)
    for t, row in enumerate(chances):
        chosen = np.argsort(-row)[:EXPERTS_USED]
        for e in chosen:
            inner = activation(model, part("gate_exps")[e] @ x[t]) * (part("up_exps")[e] @ x[t])
            result[t] += row[e] / row[chosen].sum() * (part("down_exps")[e] @ inner)
    return result


def last_logits(name, built):
    model = ARCHITECTURES[name]
    w = {tensor: dequantised(entry) for tensor, entry in built.items()}
    x = w["token_embd.weight"][PROMPT] * (np.sqrt(HIDDEN) if model.get("gemma") else 1)
    for layer in range(model["layers"]):
        y = attention(model, w, layer, rms_norm(x, w[f"blk.{layer}.attn_norm.weight"]))
        x = x + (rms_norm(y, w[f"blk.{layer}.post_attention_norm.weight"]) if model.get("gemma") else y)
        y = feed_forward(model, w, layer, rms_norm(x, w[f"blk.{layer}.ffn_norm.weight"]))
        x = x + (rms_norm(y, w[f"blk.{layer}.post_ffw_norm.weight"]) if model.get("gemma") else y)
    head = w["token_embd.weight"] if model["tied"] else w["output.weight"]
    return rms_norm(x[-1], w["output_norm.weight"]) @ head.T


def write(path, name, built):
    model = ARCHITECTURES[name]
    writer = gguf.GGUFWriter(path, model["arch"])
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(model["layers"])
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(model["theta"])
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("none")
    if model.get("experts"):
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(EXPERTS_USED)
    if model.get("gemma"):
        writer.add_sliding_window(WINDOW)
    for tensor, (shape, kind, data) in built.items():
        rows = data.reshape(*shape[:-1], -1)
        writer.add_tensor(tensor, rows, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_llama_cpp(name, kind, built, want):
    from llama_cpp_session import Session

    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "model.gguf"
        write(path, name, built)
        session = Session(path, 1, context=CONTEXT, exact_cache=True)
        session.decode([(token, i, 0, i + 1 == len(PROMPT)) for i, token in enumerate(PROMPT)])
        got = session.logits(len(PROMPT) - 1).astype(np.float64)
        session.close()
    return np.sqrt(((got - want) ** 2).mean() / (want**2).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check-llama-cpp", action="store_true")
    arguments = parser.parse_args()
    golden = {"prompt": PROMPT, "logits_f32_base64": {}}
    for name in ARCHITECTURES:
        for kind in TYPES:
            built = build(name, kind)
            logits = last_logits(name, built)
            assert np.isfinite(logits).all(), (name, kind)
            data = base64.b64encode(logits.astype(np.float32).tobytes()).decode()
            golden["logits_f32_base64"][f"{name}/{kind}"] = data
            line = f"{name}/{kind}: logits' size {np.sqrt((logits**2).mean()):.2f}"
            if arguments.check_llama_cpp:
                line += f", llama.cpp's relative error {check_llama_cpp(name, kind, built, logits):.1e}"
            print(line, flush=True)
    OUT.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
