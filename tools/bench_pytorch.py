#!/usr/bin/env python3
"""What PyTorch needs for the same work on the same GPU: cuBLAS products, SDPA attention, CUDA graphs, random weights.

  python tools/bench_pytorch.py [--device cuda|cpu] [--engine FILE] [--kernels FILE] [--json FILE] [--tiny]

A step of decode of the 8B shape in bf16 at batch 1, a prompt of 4096 tokens of it, and decode attention of 64 sequences
at 4096 tokens with 8 query heads for each KV head. FILEs are what bench_engine.py and cuda_bench wrote in the same run: the
table then has our time too, and ratio, PyTorch's time over ours. Each is captured once as a CUDA graph; times are medians of
its replays, between events on the stream, so that PyTorch pays for no Python, no sampling but argmax, and no gap between steps.
Its keys and values lie in one piece, not in pages. --tiny takes tiny shapes, --device cpu no graphs, to test all this.
Ends with 77, skipped, where there is no torch with a GPU.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import time

import make_random_checkpoint

PROMPT, DECODE = 512, 64  # bench_engine.py's; a decode step is measured in the middle
PREFILL = 4096
ATTENTION = dict(sequences=64, context=4096, kv_heads=8, group=8, head_dim=128)
TINY_ATTENTION = dict(sequences=3, context=64, kv_heads=2, group=8, head_dim=32)


def import_torch(device):
    """torch, or the reason why it is of no use here."""
    try:
        import torch
    except ImportError as error:
        return None, f"no torch here ({error})"
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 5):
        return None, f"torch {torch.__version__} has no grouped query attention; 2.5 has"
    if device == "cuda" and not torch.cuda.is_available():
        return None, f"torch {torch.__version__} finds no GPU"
    return torch, None


class Llama:
    """A Llama of random weights: queries, keys and values in one product, gate and up too, as serving engines do."""

    def __init__(self, torch, shape, device, length):
        self.torch = torch
        self.shape = shape
        hidden, inner = shape["hidden_size"], shape["intermediate_size"]
        self.heads, self.kv_heads, self.head_dim = (
            shape[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim

        def random(rows, columns):
            return torch.empty(rows, columns, dtype=torch.bfloat16, device=device).normal_(std=1 / math.sqrt(columns))

        self.layers = [dict(qkv=random(q + 2 * kv, hidden), o=random(hidden, q), gate_up=random(2 * inner, hidden),
                            down=random(hidden, inner),
                            cache=torch.zeros(2, 1, self.kv_heads, length, self.head_dim, dtype=torch.bfloat16,
                                              device=device))
                       for _ in range(shape["num_hidden_layers"])]
        self.embedding = random(shape["vocab_size"], hidden)
        self.head = self.embedding if shape["tie_word_embeddings"] else random(shape["vocab_size"], hidden)
        self.ones = torch.ones(hidden, dtype=torch.bfloat16, device=device)
        angles = torch.outer(torch.arange(length), 500000.0 ** -(torch.arange(0, self.head_dim, 2) / self.head_dim))
        self.cos, self.sin = (f(torch.cat([angles, angles], -1)).to(torch.bfloat16).to(device)
                              for f in (torch.cos, torch.sin))

    def rotate(self, x, begin):
        end = begin + x.shape[2]
        low, high = x.chunk(2, -1)
        return x * self.cos[begin:end] + self.torch.cat([-high, low], -1) * self.sin[begin:end]

    def norm(self, x):
        return self.torch.nn.functional.rms_norm(x, (x.shape[-1],), self.ones, 1e-5)

    def __call__(self, ids, begin):
        """The next token after `ids`, the first at position `begin`, as a tensor of one."""
        functional = self.torch.nn.functional
        tokens, end = ids.shape[0], begin + ids.shape[0]
        x = functional.embedding(ids, self.embedding)
        for layer in self.layers:
            heads = functional.linear(self.norm(x), layer["qkv"]).view(1, tokens, -1, self.head_dim).transpose(1, 2)
            q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], 1)
            layer["cache"][0, :, :, begin:end] = self.rotate(k, begin)
            layer["cache"][1, :, :, begin:end] = v
            keys, values = (cached[:, :, :end] for cached in layer["cache"])
            # A single token sees all; a prompt begins at position 0.
            attended = functional.scaled_dot_product_attention(self.rotate(q, begin), keys, values, is_causal=tokens > 1,
                                                               enable_gqa=True)
            x = x + functional.linear(attended.transpose(1, 2).reshape(tokens, -1), layer["o"])
            gate, up = functional.linear(self.norm(x), layer["gate_up"]).chunk(2, -1)
            x = x + functional.linear(functional.silu(gate) * up, layer["down"])
        return functional.linear(self.norm(x[-1:]), self.head).argmax(-1)


def median_us(torch, device, work, runs):
    if device == "cpu":
        times = []
        for _ in range(runs):
            begin = time.perf_counter()
            work()
            times.append((time.perf_counter() - begin) * 1e6)
        return statistics.median(times)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()  # what is looked up or loaded once
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    times = []
    for i in range(runs + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 3:
            times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def measure(torch, arguments):
    """(work, microseconds) of each."""
    device, tiny = arguments.device, arguments.tiny
    shape = make_random_checkpoint.SHAPES["tiny" if tiny else "llama-8b"]
    prompt, decode, prefill = (16, 8, 64) if tiny else (PROMPT, DECODE, PREFILL)
    context = prompt + decode // 2
    model = Llama(torch, shape, device, max(prefill, context))
    token = torch.zeros(1, dtype=torch.long, device=device)
    yield "decode", median_us(torch, device, lambda: token.copy_(model(token, context - 1)), 7 if tiny else 31)
    ids = torch.randint(shape["vocab_size"], (prefill,), device=device)
    yield "prefill", median_us(torch, device, lambda: model(ids, 0), 3 if tiny else 7)
    del model
    a = TINY_ATTENTION if tiny else ATTENTION

    def random(heads, tokens):
        return torch.randn(a["sequences"], heads, tokens, a["head_dim"], dtype=torch.bfloat16, device=device)

    q, k, v = random(a["kv_heads"] * a["group"], 1), random(a["kv_heads"], a["context"]), random(a["kv_heads"], a["context"])
    yield "decode attention", median_us(
        torch, device,
        lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True), 7 if tiny else 31)


def our_times(arguments):
    """Microseconds of the same work, of what was measured."""
    ours = {}
    case = "tiny, bf16" if arguments.tiny else "8B, bf16"
    for report in json.loads(arguments.engine.read_text()) if arguments.engine else []:
        if report["case"] == case and report["batch"] == 1:
            ours["decode"] = report["decode_step_ms"] * 1e3
        if report["case"] == f"{case}, long prompt":
            ours["prefill"] = report["prompt_tokens"] / report["prefill_tokens_per_s"] * 1e6
    for result in json.loads(arguments.kernels.read_text())["results"] if arguments.kernels else []:
        if result["work"].startswith("decode attention"):
            ours["decode attention"] = result["us"]
    return ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--engine", type=pathlib.Path)
    parser.add_argument("--kernels", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    torch, reason = import_torch(arguments.device)
    if torch is None:
        print(f"bench_pytorch: skipped: {reason}")
        sys.exit(77)
    ours = our_times(arguments)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"{f'torch {torch.__version__}, {name}':40} {'PyTorch us':>12} {'ours us':>12} {'ratio':>8}", flush=True)
    results = []
    with torch.no_grad():
        for work, us in measure(torch, arguments):
            our_us = ours.get(work)
            results.append({"work": work, "pytorch_us": us, "ours_us": our_us, "ratio": our_us and us / our_us})
            mine = f"{our_us:12.1f} {us / our_us:8.2f}" if our_us else f"{'-':>12} {'-':>8}"
            print(f"{work:40} {us:12.1f} {mine}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "device": name, "results": results}) + "\n")


if __name__ == "__main__":
    main()
