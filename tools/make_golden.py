#!/usr/bin/env python3
"""Writes tests/golden/models: tiny random checkpoints of each supported family, and what transformers
computes for them and for models/pilot in float32.

  python tools/make_golden.py [NAME ...]

(all without a NAME). Each NAME.json holds {"model", "prompt", "greedy", "logits"}: token ids of a
prompt, the ids that follow greedily, and the logits (full rows) of the prompt's last position and of the
steps listed in "logit_steps". The weights are stored in the type under test and widened to float32 for the reference,
so that only our arithmetic differs.
"""

import base64
import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from transformers import (AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, LlamaConfig, MistralConfig,
                          MixtralConfig, Qwen2Config, Qwen3Config)

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "models"
STEPS = 24

BASE = dict(vocab_size=160, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=512,
            initializer_range=0.15)

# Seven layers, the sixth without the window; a scale of attention that is not the head's.
GEMMA3 = {**BASE, "num_hidden_layers": 7, "head_dim": 16, "sliding_window": 12,
          "query_pre_attn_scalar": 24}

# name: (config, storage type, shard size)
FAMILIES = {
    "llama2": (LlamaConfig(**{**BASE, "num_key_value_heads": 8}, rms_norm_eps=1e-5,
                           tie_word_embeddings=False), torch.float16, None),
    "llama3": (LlamaConfig(**BASE, rope_theta=500000.0, rms_norm_eps=1e-5, tie_word_embeddings=False),
               torch.bfloat16, "100KB"),
    "llama32": (LlamaConfig(**BASE, head_dim=16, rms_norm_eps=1e-5, tie_word_embeddings=True,
                            rope_theta=500000.0,
                            rope_scaling={"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                                          "high_freq_factor": 4.0, "rope_theta": 500000.0,
                                          "original_max_position_embeddings": 64}), torch.bfloat16, None),
    "llama_bias": (LlamaConfig(**BASE, attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
                   torch.float32, None),
    "llama_linear_rope": (LlamaConfig(**BASE, tie_word_embeddings=True,
                                      rope_scaling={"rope_type": "linear", "factor": 4.0,
                                                    "rope_theta": 10000.0}), torch.bfloat16, None),
    "mistral": (MistralConfig(**BASE, head_dim=24, sliding_window=None, tie_word_embeddings=False),
                torch.bfloat16, None),
    "mistral_window": (MistralConfig(**BASE, sliding_window=12, tie_word_embeddings=False),
                       torch.bfloat16, None),
    "qwen2": (Qwen2Config(**{**BASE, "vocab_size": 151}, tie_word_embeddings=True,
                          rope_theta=1000000.0), torch.bfloat16, None),
    "qwen2_yarn": (Qwen2Config(**{**BASE, "hidden_size": 128, "max_position_embeddings": 256},
                               tie_word_embeddings=True,
                               rope_scaling={"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
                                             "original_max_position_embeddings": 64}), torch.bfloat16, None),
    "qwen3": (Qwen3Config(**BASE, head_dim=32, tie_word_embeddings=True, rope_theta=1000000.0),
              torch.bfloat16, None),
    "qwen3_mixed_window": (Qwen3Config(**BASE, head_dim=32, tie_word_embeddings=True,
                                       use_sliding_window=True, sliding_window=12,
                                       layer_types=["sliding_attention", "full_attention",
                                                    "sliding_attention"]), torch.bfloat16, None),
    "gemma3": (Gemma3TextConfig(**GEMMA3), torch.bfloat16, None),
    "gemma3_linear_rope": (Gemma3TextConfig(**GEMMA3, tie_word_embeddings=False,
                                            rope_scaling={"rope_type": "linear", "factor": 8.0}),
                           torch.bfloat16, None),
    "mixtral": (MixtralConfig(**BASE, num_local_experts=4, num_experts_per_tok=2,
                              tie_word_embeddings=False), torch.bfloat16, None),
}


def make_checkpoint(name, config, dtype, shard_size):
    directory = OUT / name
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(sum(name.encode()))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                one = 0 if config.model_type == "gemma3_text" else 1  # Gemma adds it
                parameter.copy_(one + 0.2 * torch.randn_like(parameter))
            elif key.endswith("bias"):
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model = model.to(dtype)
    extra = {"max_shard_size": shard_size} if shard_size else {}
    model.save_pretrained(directory, safe_serialization=True, **extra)
    return directory


def reference(directory, prompt, steps, logit_steps):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    ids = list(prompt)
    rows, greedy = [], []
    with torch.no_grad():
        for step in range(steps):
            logits = model(torch.tensor([ids])).logits[0, -1].float()
            if step in logit_steps:
                rows.append(logits.numpy())
            greedy.append(int(logits.argmax()))
            ids.append(greedy[-1])
    return greedy, np.stack(rows)


def write_golden(name, directory, prompt, steps, logit_steps):
    greedy, rows = reference(directory, prompt, steps, logit_steps)
    golden = {"model": str(directory.relative_to(ROOT)), "prompt": prompt, "greedy": greedy,
              "logit_steps": logit_steps, "vocab_size": int(rows.shape[1]),
              "logits_f32_base64": base64.b64encode(rows.astype("<f4").tobytes()).decode()}
    (OUT / f"{name}.json").write_text(json.dumps(golden) + "\n")
    print(f"{name}: {len(prompt)} prompt tokens, logits up to {np.abs(rows).max():.2f}")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:] or [*FAMILIES, "pilot_chat", "pilot_raw"]
    for name, (config, dtype, shard_size) in FAMILIES.items():
        if name not in wanted:
            continue
        directory = make_checkpoint(name, config, dtype, shard_size)
        generator = np.random.default_rng(len(name))
        prompt = generator.integers(0, config.vocab_size, 41).tolist()
        write_golden(name, directory, prompt, STEPS, [0, 1, STEPS - 1])
    pilot = ROOT / "models" / "pilot"
    tokenizer = AutoTokenizer.from_pretrained(pilot)
    for name, text in [("pilot_chat", None), ("pilot_raw", "Tensor parallelism is")]:
        if name not in wanted:
            continue
        if text is None:
            messages = [{"role": "user", "content": "What is the KV cache?"}]
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True,
                                                   return_dict=False)
        else:
            prompt = tokenizer.encode(text)
        write_golden(name, pilot, prompt, 64, [0, 1, 32, 63])


if __name__ == "__main__":
    main()
