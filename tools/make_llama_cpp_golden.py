#!/usr/bin/env python3
"""Golden values of llama.cpp for real models: tests/golden/llama_cpp/*.json.

  python tools/make_llama_cpp_golden.py MODELS_DIR [--files]

For each model of fetch_test_models.sh: the mean negative log likelihood of tests/golden/llama_cpp/text.txt, and the greedy 64-token
continuations of three prompts, with the smallest distance between the best and the second logit, below which another
order of sums may choose another token. Prompts whose distance is below LEAST_MARGIN are left out: nothing is to be
learnt from a tie.

Of these models llama.cpp's own quantiser makes files in other formats (REQUANTISED) in MODELS_DIR; with --files, that is
all. For each of them the likelihoods go to requantised.json. Files and values that exist already are left alone.

llama.cpp rounds activations to 8 bits, which moves the likelihood; "exact_mean_nll" is numpy's, in float32 on the
dequantised weights, and what ours is held against.
"""

import argparse
import json
import pathlib

import numpy as np
from gguf_reference import Reference
from llama_cpp_session import Session
from make_bench_gguf import FTYPES, quantize

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "llama_cpp"
STEPS, PROMPTS, LEAST_MARGIN = 64, 3, 0.15

TEXTS = [
    "The three primary colours are",
    "def fibonacci(n):\n    \"\"\"The n-th Fibonacci number.\"\"\"\n",
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is",
    "Question: What is 12 times 12?\nAnswer:",
    "1, 2, 3, 4, 5, 6, 7,",
    "#include <stdio.h>\n\nint main(void) {\n",
    "A B C D E F G",
    "Monday, Tuesday, Wednesday,",
    "for (int i = 0; i < 10; i++) {\n",
    "Once upon a time there was a",
    "import numpy as np\n\ndef softmax(x):\n",
    "SELECT name, COUNT(*) FROM users",
]
QUESTIONS = [
    "Write a Python function that reverses a string.",
    "What does the C keyword static mean for a local variable?",
    "Count from one to thirty.",
    "Write a bash loop that prints the numbers from 1 to 5.",
    "Explain quicksort in one sentence.",
    "Write a C function that adds two integers.",
]


def chat(question):
    return f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" \
           f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


MODELS = {"gemma-3-270m": TEXTS, "qwen2.5-coder-1.5b": [chat(text) for text in QUESTIONS] + TEXTS}

REQUANTISED = [("gemma-3-270m", format) for format in ("f32", "f16", "bf16", "q8_0", "q4_0")]
REQUANTISED += [("qwen2.5-coder-1.5b", format) for format in ("q8_0", "q4_0")]


def mean_nll(session, tokens):
    """Of every token but the first, each given all before it."""
    session.clear()
    total = 0.0
    for begin in range(0, len(tokens), 512):
        chunk = tokens[begin:begin + 512]
        session.decode([(token, begin + i, 0, True) for i, token in enumerate(chunk)])
        for i in range(len(chunk)):
            if begin + i + 1 == len(tokens):
                break
            logits = session.logits(i).astype(np.float64)
            best = logits.max()
            total += best + np.log(np.exp(logits - best).sum()) - logits[tokens[begin + i + 1]]
    return total / (len(tokens) - 1)


def greedy(session, prompt):
    """The continuation, and the smallest lead of a chosen token."""
    session.clear()
    session.decode([(token, i, 0, i + 1 == len(prompt)) for i, token in enumerate(prompt)])
    row, tokens, margin = len(prompt) - 1, [], np.inf
    for step in range(STEPS):
        logits = session.logits(row)
        second, best = np.partition(logits, -2)[-2:]
        margin = min(margin, float(best - second))
        tokens.append(int(np.argmax(logits)))
        session.decode([(tokens[-1], len(prompt) + step, 0, True)])
        row = 0
    return tokens, margin


def requantise(models, threads):
    for source, format in REQUANTISED:
        target = models / f"{source}-{format}.gguf"
        if target.exists():
            continue
        partial = target.with_suffix(".partial")
        quantize(models / f"{source}.gguf", partial, FTYPES[format], threads, again=True)
        partial.rename(target)
        print(target, flush=True)


def add_requantised(models, threads):
    path = OUT / "requantised.json"
    golden = json.loads(path.read_text()) if path.exists() else {}
    for source, format in REQUANTISED:
        name = f"{source}-{format}"
        if name in golden:
            continue
        tokens = json.loads((OUT / f"{source}.json").read_text())["tokens"]
        session = Session(models / f"{name}.gguf", threads, exact_cache=True)
        golden[name] = dict(tokens_of=source, mean_nll=mean_nll(session, tokens),
                            exact_mean_nll=Reference(models / f"{name}.gguf").mean_nll(tokens))
        session.close()
        print(name, golden[name], flush=True)
        path.write_text(json.dumps(golden, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--files", action="store_true", help="only make the requantised files")
    arguments = parser.parse_args()
    requantise(arguments.models, arguments.threads)
    if arguments.files:
        return
    text = (OUT / "text.txt").read_text()
    for name, prompts in MODELS.items():
        if (OUT / f"{name}.json").exists():
            continue
        session = Session(arguments.models / f"{name}.gguf", arguments.threads, exact_cache=True)
        tokens = session.tokenize(text)
        golden = dict(model=f"{name}.gguf", oracle="llama.cpp, llama-cpp-python 0.3.36, CPU, f32 KV cache",
                      tokens=tokens, mean_nll=mean_nll(session, tokens),
                      exact_mean_nll=Reference(arguments.models / f"{name}.gguf").mean_nll(tokens), greedy=[])
        print(f"{name}: {len(tokens)} tokens, mean negative log likelihood {golden['mean_nll']:.6f}, "
              f"exactly {golden['exact_mean_nll']:.6f}", flush=True)
        for text_of_prompt in prompts:
            if len(golden["greedy"]) == PROMPTS:
                break
            prompt = session.tokenize(text_of_prompt)
            continuation, margin = greedy(session, prompt)
            print(f"  margin {margin:.3f}  {text_of_prompt[-40:]!r}", flush=True)
            if margin >= LEAST_MARGIN:
                golden["greedy"].append(dict(text=text_of_prompt, prompt=prompt, tokens=continuation,
                                             margin=round(margin, 4)))
        session.close()
        if len(golden["greedy"]) < PROMPTS:
            raise SystemExit(f"{name}: too few prompts without near ties; add some")
        (OUT / f"{name}.json").write_text(json.dumps(golden) + "\n")
    add_requantised(arguments.models, arguments.threads)


if __name__ == "__main__":
    main()
