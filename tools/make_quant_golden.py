#!/usr/bin/env python3
"""Writes tests/golden/quant.json: random blocks of every quantised GGUF format and the values that the
gguf package (the reference implementation in numpy) reads from them; and of our blocks for Hugging Face's
INT8 and 4-bit checkpoints, with the values of their definitions in numpy.

    pip install -r tools/requirements.txt; tools/make_quant_golden.py
"""

import base64
import json
from pathlib import Path

import gguf
import numpy as np

ROWS, COLS = 3, 512
# Where the float16 scales lie in a block.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}


def entry(stored, values):
    return {"stored": base64.b64encode(stored.tobytes()).decode(),
            "values": base64.b64encode(values.astype(np.float32).tobytes()).decode()}


def int8(random):
    """Blocks of float32 scale, 32 int8."""
    scales = random.normal(0, 0.05, (ROWS, COLS // 32, 1)).astype(np.float32)
    quants = random.integers(-128, 128, (ROWS, COLS // 32, 32)).astype(np.int8)
    return entry(np.concatenate([scales.view(np.uint8), quants.view(np.uint8)], axis=2), scales * quants)


def int4(random):
    """Blocks of float16 scale, zero from 0 to 16, 32 quants in 16 bytes."""
    scales = random.normal(0, 0.05, (ROWS, COLS // 32, 1)).astype(np.float16)
    zeros = random.integers(0, 17, scales.shape).astype(np.uint8)
    quants = random.integers(0, 16, (ROWS, COLS // 32, 32)).astype(np.uint8)
    stored = np.concatenate([scales.view(np.uint8), zeros, quants[..., :16] | quants[..., 16:] << 4], axis=2)
    return entry(stored, scales.astype(np.float32) * (quants.astype(np.float32) - zeros))


def main():
    random = np.random.default_rng(4)
    golden = {"rows": ROWS, "cols": COLS, "formats": {}}
    for name, offsets in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (ROWS, COLS // elements, size), dtype=np.uint8)
        for offset in offsets:
            scales = random.normal(0, 0.05, blocks.shape[:2]).astype(np.float16)
            blocks[:, :, offset:offset + 2] = scales[:, :, None].view(np.uint8).reshape(ROWS, -1, 2)
        stored = blocks.reshape(ROWS, -1)
        values = gguf.quants.dequantize(stored, kind).astype(np.float32)
        golden["formats"][name] = entry(stored, values)
    golden["formats"]["INT8"] = int8(random)
    golden["formats"]["INT4"] = int4(random)
    path = Path(__file__).parent.parent / "tests/golden/quant.json"
    path.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
