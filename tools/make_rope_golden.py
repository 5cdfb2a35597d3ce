#!/usr/bin/env python3
"""Writes tests/golden/rope.json: cosines and sines of transformers' rotary embedding, for every kind of scaling.

  python tools/make_rope_golden.py

A list of {"config": a config.json, "positions", "cos", "sin"}; of each position a row of head_dim / 2 values.
"""

import json
import pathlib

import torch
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "rope.json"
POSITIONS = [0, 1, 100, 131071]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
ROPES = [
    {"rope_type": "default", "rope_theta": 1e6},
    {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4},
    {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8192, "rope_theta": 5e5},
    {**YARN, "rope_theta": 1e6},  # as Qwen 2.5 and 3
    {**YARN, "rope_theta": 1e4, "factor": 1.0},
    {**YARN, "rope_theta": 1e4, "factor": 10.0, "original_max_position_embeddings": 100},
    {**YARN, "rope_theta": 1e6, "truncate": False},
    {**YARN, "rope_theta": 1e6, "beta_fast": 16, "beta_slow": 2.5},
    {**YARN, "rope_theta": 1e6, "beta_fast": 0, "beta_slow": 0},
    {**YARN, "rope_theta": 1e6, "attention_factor": 0.7},
    {**YARN, "rope_theta": 1e6, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.707},
    {**YARN, "rope_theta": 1e6, "factor": 40.0, "mscale": 0.707},
    {**YARN, "rope_theta": 1e6, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0},
]


def main():
    golden = []
    for rope in ROPES:
        config = Qwen2Config(vocab_size=160, hidden_size=512, intermediate_size=96, num_hidden_layers=1,
                             num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=131072,
                             rope_parameters=dict(rope))
        cos, sin = Qwen2RotaryEmbedding(config)(torch.zeros(1), torch.tensor([POSITIONS]))
        half = cos.shape[-1] // 2
        settings = {**json.loads(config.to_json_string()), "architectures": ["Qwen2ForCausalLM"]}
        golden.append({"config": settings, "positions": POSITIONS, "cos": cos[0, :, :half].tolist(),
                       "sin": sin[0, :, :half].tolist()})
    OUT.write_text(json.dumps(golden) + "\n")
    print(f"{len(golden)} kinds")


if __name__ == "__main__":
    main()
