#!/usr/bin/env python3
"""Writes GGUF files of random weights in the shape of Llama 3.2 1B, for benchmarks: their text means nothing.

  python tools/make_bench_gguf.py OUT_DIR [--formats bf16 q8_0 q4_0 q4_k_m]

Writes OUT_DIR/llama-1b-FORMAT.gguf. BF16 is written with the gguf package, the others are made of it by llama.cpp's
own quantiser (llama-cpp-python), so that they hold the mix of types that people download. Files that exist are kept.
"""

import argparse
import pathlib

import gguf
import numpy as np

LAYERS, HIDDEN, INNER, VOCAB = 16, 2048, 8192, 128256
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 64
ROPE_THETA, CONTEXT = 500000.0, 131072
BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN = 128000, 128001, 128009
FTYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_k_m": 15}  # llama.h: enum llama_ftype
FORMATS = ["bf16", "q8_0", "q4_0", "q4_k_m"]


def byte_tokens():
    """GPT-2's printable characters for the 256 bytes, in byte order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable}
    names.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return [names[byte] for byte in range(256)]


def add_tokenizer(writer):
    """Bytes and pairs of letters; the rest of the vocabulary is filler that no text gives."""
    letters = [chr(ord("a") + i) for i in range(26)]
    merges = [(first, second) for first in ["\u0120", *letters] for second in letters]
    tokens = byte_tokens() + [first + second for first, second in merges]
    tokens += [f"<filler{i}>" for i in range(len(tokens), VOCAB)]
    types = [gguf.TokenType.NORMAL] * VOCAB
    for token, name in ((BEGIN_OF_TEXT, "<|begin_of_text|>"), (END_OF_TEXT, "<|end_of_text|>"),
                        (END_OF_TURN, "<|eot_id|>")):
        tokens[token] = name
        types[token] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(BEGIN_OF_TEXT)
    writer.add_eos_token_id(END_OF_TURN)
    writer.add_add_bos_token(True)


def add_config(writer):
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)


def rope_factors():
    """What llama3 rope scaling (factor 32, low 1, high 4, trained on 8192) divides each frequency by."""
    wavelengths = 2 * np.pi * ROPE_THETA ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    smooth = np.clip((8192 / wavelengths - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)


def weight_shapes():
    """(name, shape) of every weight, in file order; no output.weight: the embedding is tied."""
    yield "token_embd.weight", (VOCAB, HIDDEN)
    for i in range(LAYERS):
        yield f"blk.{i}.attn_norm.weight", (HIDDEN,)
        yield f"blk.{i}.attn_q.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield f"blk.{i}.attn_k.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield f"blk.{i}.attn_v.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield f"blk.{i}.attn_output.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield f"blk.{i}.ffn_norm.weight", (HIDDEN,)
        yield f"blk.{i}.ffn_gate.weight", (INNER, HIDDEN)
        yield f"blk.{i}.ffn_up.weight", (INNER, HIDDEN)
        yield f"blk.{i}.ffn_down.weight", (HIDDEN, INNER)
    yield "output_norm.weight", (HIDDEN,)


def write_bf16(path, seed):
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_name("random weights, Llama 3.2 1B's shape")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    add_config(writer)
    add_tokenizer(writer)
    generator = np.random.default_rng(seed)
    writer.add_tensor("rope_freqs.weight", rope_factors())
    for name, shape in weight_shapes():
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            continue
        values = generator.standard_normal(shape, np.float32)
        values *= shape[1] ** -0.5
        halves = (values.view(np.uint32) >> 16).astype(np.uint16)
        writer.add_tensor(name, halves.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source, target, ftype, threads, again=False):
    """`again`: of a source that is quantised itself."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = ftype
    parameters.nthread = threads
    parameters.allow_requantize = again
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters)
    if failed:
        raise SystemExit(f"llama.cpp could not quantise {source}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    source = arguments.out / "llama-1b-bf16.gguf"
    for name in ["bf16", *(name for name in arguments.formats if name != "bf16")]:
        target = arguments.out / f"llama-1b-{name}.gguf"
        if target.exists():
            continue
        partial = target.with_suffix(".partial")
        if name == "bf16":
            write_bf16(partial, arguments.seed)
        else:
            quantize(source, partial, FTYPES[name], arguments.threads)
        partial.rename(target)
        print(target)


if __name__ == "__main__":
    main()
