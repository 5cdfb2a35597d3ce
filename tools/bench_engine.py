#!/usr/bin/env python3
"""Decode speed of the whole engine on a GPU, without server and clients, on random weights.

  python tools/bench_engine.py [--worker PROGRAM] [--device cuda|cpu] [--dir DIR] [--json FILE] [--tiny]

For each case the checkpoint is written below DIR (default: /dev/shm or /tmp, whichever has room), trireme-worker
--offline-bench measures it, and it is removed. The table has a step's time, its share of what reading weights, keys and
values takes at the bandwidth that copying had in the same run, and the gap: what of a step the GPU is idle. The rank of
the 90B model computes alone, without the sums that 8 ranks make. --tiny takes tiny models instead, to test all this.
Ends with 77, skipped, where no directory has room for the largest checkpoint.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import make_random_checkpoint

ROOT = pathlib.Path(__file__).resolve().parent.parent

# (what it is, shape, weights, batches, tokens of a long prompt)
CASES = [("8B, bf16", "llama-8b", "bf16", [1], 4096),
         ("8B, INT4", "llama-8b", "int4", [1], None),
         ("rank of 90B at TP=8, bf16", "llama-90b-tp8", "bf16", [1, 32, 128], None)]
TINY_CASES = [("tiny, bf16", "tiny", "bf16", [1, 3], 64), ("tiny, INT4", "tiny", "int4", [1], None)]
ROOM = 24 << 30  # the largest checkpoint and some


def directory_with_room(wanted, bytes_wanted):
    for candidate in [wanted] if wanted else ["/dev/shm", tempfile.gettempdir()]:
        if os.path.isdir(candidate) and shutil.disk_usage(candidate).free >= bytes_wanted:
            return candidate
    return None


def measure(arguments, model, batch, prompt=None):
    decode = 8 if arguments.tiny else 64
    prompt = prompt or (16 if arguments.tiny else 512)
    length = prompt + decode
    bytes_of_token = 4 * 4 * 2 * 128 if arguments.tiny else 128 << 10  # at most, float32 on CPU
    blocks = batch * (length + 31) // 32 + batch
    command = [arguments.worker, "--offline-bench", "--model", model, "--device", arguments.device, "--log-level", "warning",
               "--max-model-len", str(length), "--max-num-batched-tokens", str(max(prompt, 512)),
               "--kv-memory", str(blocks * 32 * bytes_of_token),
               "--bench-prompt-tokens", str(prompt), "--bench-decode-tokens", str(decode), "--bench-batch", str(batch)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"bench_engine: failed: {' '.join(map(str, command))}")
    return json.loads(run.stdout)


def row(name, report):
    bandwidth = report.get("copy_bandwidth_gb_s", report.get("read_bandwidth_gb_s"))
    gap = report["decode_gap_ms"]
    # What is queued at once has the first 64 tokens' logits alone.
    gap = f"{gap * 1e3:9.1f}" if gap is not None and report["batch"] <= 64 else f"{'-':>9}"
    return (f"{name:28} {report['batch']:5} {report['decode_step_ms']:9.3f} {report['decode_tokens_per_s']:10.1f} "
            f"{report['decode_bytes'] / 1e9:9.3f} {bandwidth:10.0f} {100 * report['decode_roofline_share']:8.1f} {gap}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", default=ROOT / "bin" / "trireme-worker")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dir")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    parent = directory_with_room(arguments.dir, ROOM if not arguments.tiny else 1 << 26)
    if parent is None:
        print("bench_engine: skipped: no directory has 24 GiB of room for a checkpoint; name one with --dir")
        sys.exit(77)
    print(f"{'decode':28} {'batch':>5} {'ms/step':>9} {'tokens/s':>10} {'GB read':>9} {'GB/s':>10} {'share %':>8} "
          f"{'gap us':>9}", flush=True)
    reports = []
    for name, shape, weights, batches, long_prompt in TINY_CASES if arguments.tiny else CASES:
        with tempfile.TemporaryDirectory(dir=parent, prefix="trireme-bench-") as work:
            make_random_checkpoint.write_checkpoint(pathlib.Path(work), shape, weights)
            for batch in batches:
                reports.append({"case": name, **measure(arguments, work, batch)})
                print(row(name, reports[-1]), flush=True)
            if long_prompt:
                reports.append({"case": f"{name}, long prompt", **measure(arguments, work, 1, long_prompt)})
                print(row(f"{name}, long prompt", reports[-1]), flush=True)
                print(f"{'':28} a prompt of {long_prompt}: {reports[-1]['prefill_tokens_per_s']:.0f} tokens/s")
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
