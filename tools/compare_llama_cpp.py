#!/usr/bin/env python3
"""Our speed beside llama.cpp's on the same GGUF files, measured in turn (A B A B ...) on the same threads.

  tools/make_bench_gguf.py DIR
  python tools/compare_llama_cpp.py DIR [--bin build/release/bin] [--threads 1 2] [--pairs 3] [--json]

Prefill of 512 tokens, decoding of one sequence and of 16 at once, and the time from a start with the file in the
page cache to the first token. llama.cpp runs with flash attention off and on; the better counts. Ours includes the
choice of tokens, llama.cpp's figures are llama_decode alone. With --tp, the gang of TP ranks of one thread each is
compared with llama.cpp on TP threads. The shares hold the medians against what this machine can do, measured between
the runs (bin/bench/peaks): decoding must read every weight for each step, prefill must multiply each (int8 for
quantised weights, the faster of float32 and bf16 otherwise). llama.cpp must be built for this machine: see
requirements.txt.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

FORMATS = ["bf16", "q8_0", "q4_0", "q4_k_m"]
PROMPT, SEQUENCES, SHORT_PROMPT = 512, 16, 32
QUESTION = "the cat sat on the mat and "
METRICS = ["prefill", "decode", "decode16", "first_token"]
UNITS = {"prefill": "tokens/s", "decode": "tokens/s", "decode16": "tokens/s", "first_token": "s"}


def better(metric, values):
    return min(values) if metric == "first_token" else max(values)


# llama.cpp, in a process of its own: compare_llama_cpp.py --llama-cpp FILE THREADS STEPS FLASH FIRST


def measure_speed(session, steps):
    """Tokens per second of prefill, one decoding sequence, and SEQUENCES of them."""
    token = lambda i: (i * 7919) % session.vocab_size

    def prefill(sequence, length):
        session.decode([(token(i), i, sequence, i + 1 == length) for i in range(length)])

    def decode(sequences, begin):
        times = []
        for step in range(steps):
            start = time.perf_counter()
            session.decode([(token(step), begin + step, sequence, True) for sequence in range(sequences)])
            session.logits(sequences - 1)
            times.append(time.perf_counter() - start)
        return sequences / statistics.median(times)

    prefill(0, PROMPT)  # pages and buffers
    session.clear()
    start = time.perf_counter()
    prefill(0, PROMPT)
    session.logits(PROMPT - 1)
    result = {"prefill": PROMPT / (time.perf_counter() - start), "decode": decode(1, PROMPT)}
    session.clear()
    for sequence in range(SEQUENCES):
        prefill(sequence, SHORT_PROMPT)
    result["decode16"] = decode(SEQUENCES, SHORT_PROMPT)
    return result


def llama_cpp_process(path, threads, steps, flash, first):
    from llama_cpp_session import Session

    flash = flash == "1"
    start = time.perf_counter()
    if first == "1":
        session = Session(path, int(threads), flash_attention=flash)
        prompt = session.tokenize(QUESTION)
        session.decode([(token, i, 0, i + 1 == len(prompt)) for i, token in enumerate(prompt)])
        int(session.logits(len(prompt) - 1).argmax())
        result = {"first_token": time.perf_counter() - start}
    else:
        result = measure_speed(Session(path, int(threads), sequences=SEQUENCES, flash_attention=flash), int(steps))
    print(json.dumps(result), flush=True)
    os._exit(0)  # nothing to be measured in freeing


def run_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False,
                          env={**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
    if done.returncode != 0:
        raise SystemExit(f"failed with {done.returncode}: {' '.join(map(str, command))}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def llama_cpp(path, threads, steps):
    results = []
    for flash in "01":
        result = {}
        for first in "01":
            result |= run_json([sys.executable, __file__, "--llama-cpp", path, str(threads), str(steps), flash, first])
        results.append(result)
    return {metric: better(metric, [result[metric] for result in results]) for metric in METRICS}


# Trireme


def trireme_first_token(binaries, path, threads, tp):
    start = time.perf_counter()
    process = subprocess.Popen([binaries / "trireme", "run", path, "-p", QUESTION, "-n", "1", "--ignore-eos",
                                "--threads", str(threads), "--tp", str(tp)],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
    first = process.stdout.read(1)
    seconds = time.perf_counter() - start
    process.stdout.read()
    if process.wait() != 0 or not first:
        raise SystemExit(f"trireme run {path} failed")
    return seconds


def trireme(binaries, path, threads, tp, steps):
    def bench(prompt, batch):
        launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(tp)] if tp > 1 else []
        return run_json([*launch, binaries / "trireme-worker", "--offline-bench", "--model", path, "--tp", str(tp),
                         "--threads", str(threads), "--max-model-len", str(prompt + steps + 1),
                         "--bench-prompt-tokens", str(prompt), "--bench-decode-tokens", str(steps + 1),
                         "--bench-batch", str(batch)])

    one, many = bench(PROMPT, 1), bench(SHORT_PROMPT, SEQUENCES)
    return {"prefill": one["prefill_tokens_per_s"], "decode": one["decode_tokens_per_s"],
            "decode16": many["decode_tokens_per_s"], "first_token": trireme_first_token(binaries, path, threads, tp)}


# The table


def model_sizes(path):
    """Bytes that a decode step reads, and multiplications that a prompt token takes."""
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    return (sum(int(t.n_bytes) for t in tensors),
            sum(int(t.n_elements) for t in tensors if t.name.startswith("blk.") and len(t.shape) > 1))


def shares(medians, sizes, peaks, name):
    weight_bytes, weights = sizes
    peak = max(peaks["f32_gflop_s"], peaks["bf16_gflop_s"]) if name == "bf16" else peaks["int8_gop_s"]
    read = weight_bytes / 1e9 / peaks["read_gb_s"]
    return {"prefill": 2 * weights * medians["prefill"] / 1e9 / peak if peak else None,
            "decode": read * medians["decode"], "decode16": read * medians["decode16"] / SEQUENCES}


def compare(arguments, name, threads):
    """A row for one rank, and one for TP ranks of one thread where these are as many threads."""
    path = arguments.models / f"llama-1b-{name}.gguf"
    path.read_bytes()  # into the page cache
    layouts = [(threads, 1)] + ([(1, threads)] if threads == arguments.tp > 1 else [])
    ours, theirs, peaks = {layout: [] for layout in layouts}, [], {}
    for _ in range(arguments.pairs):
        for layout in layouts:
            ours[layout].append(trireme(arguments.bin, path, *layout, arguments.steps))
        theirs.append(llama_cpp(path, threads, arguments.steps))
        measured = run_json([arguments.bin / "bench" / "peaks", str(threads)])
        peaks = {key: max(value, peaks.get(key, 0)) for key, value in measured.items()}
    return [summarise(path, name, *layout, ours[layout], theirs, peaks) for layout in layouts]


def summarise(path, name, threads, tp, ours, theirs, peaks):
    median = lambda runs: {metric: statistics.median(run[metric] for run in runs) for metric in METRICS}
    row = {"format": name, "threads": threads, "tp": tp, "ours": median(ours), "llama_cpp": median(theirs),
           "peaks": peaks, "runs": {"ours": ours, "llama_cpp": theirs}}
    # Above 1 is better for us in every metric.
    row["ratio"] = {m: row["llama_cpp"][m] / row["ours"][m] if m == "first_token" else
                    row["ours"][m] / row["llama_cpp"][m] for m in METRICS}
    sizes = model_sizes(path)
    row["share"] = {who: shares(row[who], sizes, peaks, name) for who in ("ours", "llama_cpp")}
    return row


def print_row(row):
    percent = lambda value: "-" if value is None else f"{value * 100:.0f}%"
    layout = f"TP={row['tp']} x {row['threads']}"
    for metric in METRICS:
        limits = [percent(row["share"][who].get(metric)) for who in ("ours", "llama_cpp")]
        print(f"{row['format']:8} {layout:9} {metric:12} {row['ours'][metric]:10.2f} {row['llama_cpp'][metric]:10.2f} "
              f"{UNITS[metric]:9} {row['ratio'][metric]:6.2f} {limits[0]:>6} {limits[1]:>6}", flush=True)


def main():
    if sys.argv[1:2] == ["--llama-cpp"]:
        llama_cpp_process(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--tp", type=int, default=2, help="also compare so many ranks of one thread; 1: don't")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=32, help="decode steps of each run")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.bin = arguments.bin.resolve()
    rows = []
    if not arguments.json:
        print(f"{'format':8} {'layout':9} {'metric':12} {'Trireme':>10} {'llama.cpp':>10} {'':9} {'ratio':>6} "
              f"{'share':>6} {'theirs':>6}")
    for name in arguments.formats:
        for threads in arguments.threads:
            for row in compare(arguments, name, threads):
                rows.append(row)
                if not arguments.json:
                    print_row(row)
    if arguments.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
