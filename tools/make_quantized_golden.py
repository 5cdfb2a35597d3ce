#!/usr/bin/env python3
"""Writes tests/golden/quantized: tiny random checkpoints in Hugging Face's quantised layouts, and what
transformers computes in float32 for their dequantised weights.

  python tools/make_quantized_golden.py [NAME ...]

(all without a NAME). Each NAME.json is as make_golden.py writes it, for the first step only, and has "matrices":
of every quantised matrix the CRC-32 of its dequantised values, float32, row by row. INT8 and FP8 are dequantised as
compressed-tensors does it if that package is installed, and otherwise by the same formula; AWQ and GPTQ are packed and
dequantised here, from the definitions of AutoAWQ's "gemm" and GPTQModel's "gptq" layouts.
"""

import base64
import json
import pathlib
import shutil
import sys
import zlib

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

try:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize
except ImportError:
    dequantize = None

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "quantized"
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # the row of each nibble, from the lowest on
GROUP = 128

BASE = dict(vocab_size=160, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=2, head_dim=32, max_position_embeddings=512, initializer_range=0.1)
WIDE = {**BASE, "hidden_size": 256}
NARROW = {**BASE, "intermediate_size": 192, "head_dim": 16}


def compressed(kind, strategy, layout, **extra):
    scheme = {"num_bits": 8, "type": kind, "symmetric": True, "group_size": None, "block_structure": None}
    return {"quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
            "ignore": ["lm_head"], "kv_cache_scheme": None, "sparsity_config": {},
            "config_groups": {"group_0": {
                "targets": ["Linear"], "output_activations": None,
                "weights": {**scheme, "strategy": strategy, "dynamic": False, **extra},
                "input_activations": {**scheme, "strategy": "token", "dynamic": True}}}}


def scaled(values, largest):
    """Scale that takes `largest` to the largest magnitude of each row."""
    return values.abs().amax(dim=1, keepdim=True) / largest


def check(values, quants, scale, **args):
    if dequantize is not None:
        other = dequantize(quants, scale.float(), args=QuantizationArgs(num_bits=8, symmetric=True, **args))
        assert torch.equal(other.float(), values), "compressed-tensors disagrees"
    return values


def int8(name, weight):
    scale = scaled(weight, 127.0).to(torch.bfloat16)
    if "v_proj" in name:
        scale = scale.float().reshape(-1)  # the other shape and type
    column = scale.float().reshape(-1, 1)
    quants = (weight / column).round().clamp(-128, 127).to(torch.int8)
    values = check(quants.float() * column, quants, column, type="int", strategy="channel")
    return {"weight": quants, "weight_scale": scale}, values


def fp8(name, weight):
    scale = scaled(weight, 448.0)
    if "v_proj" in name:
        scale = scale.max().reshape(1)  # of the tensor
    quants = (weight / scale).to(torch.float8_e4m3fn)
    exact = check(quants.float() * scale, quants, scale, type="float",
                  strategy="tensor" if "v_proj" in name else "channel")
    return {"weight": quants, "weight_scale": scale}, exact.to(torch.bfloat16).float()


def fp8_block(name, weight):
    rows, cols = weight.shape
    padded = torch.zeros(-(-rows // 128) * 128, -(-cols // 128) * 128)
    padded[:rows, :cols] = weight
    blocks = padded.reshape(padded.shape[0] // 128, 128, -1, 128)
    scale = blocks.abs().amax(dim=(1, 3)) / 448.0
    wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :cols]
    quants = (weight / wide).to(torch.float8_e4m3fn)
    return {"weight": quants, "weight_scale_inv": scale}, (quants.float() * wide).to(torch.bfloat16).float()


def int4(weight, symmetric, scale_type, group=GROUP):
    """Quants and zeros as [columns, rows] and [groups, rows], scales, values."""
    groups = weight.T.reshape(-1, group, weight.shape[0])
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    scale = (torch.maximum(-low, high) / 7.5 if symmetric else (high - low) / 15).to(scale_type)
    zeros = torch.full(low.shape, 8.0) if symmetric else (-low / scale.float()).round().clamp(0, 15)
    quants = (groups / scale.float()[:, None] + zeros[:, None]).round().clamp(0, 15)
    values = (quants - zeros[:, None]) * scale.float()[:, None]
    return (quants.reshape(-1, weight.shape[0]).numpy().astype(np.uint32), zeros.numpy().astype(np.uint32), scale,
            values.reshape(-1, weight.shape[0]).T.contiguous())


def pack(values, axis, order):
    """Eight values along an axis in a word: in nibble i, from the lowest on, the order[i]-th."""
    values = np.moveaxis(values, axis, -1)
    eights = values.reshape(*values.shape[:-1], -1, 8)
    words = np.zeros(eights.shape[:-1], np.uint32)
    for nibble, which in enumerate(order):
        words |= eights[..., which] << np.uint32(4 * nibble)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32))


def awq(name, weight):
    quants, zeros, scale, values = int4(weight, False, torch.float16)
    return {"qweight": pack(quants, 1, AWQ_ORDER), "qzeros": pack(zeros, 1, AWQ_ORDER), "scales": scale}, values


def gptq(name, weight):
    # Zeros are stored less one, so zero itself cannot be.
    quants, zeros, scale, values = int4(weight, "mlp" in name, torch.bfloat16 if "q_proj" in name else torch.float16)
    assert zeros.min() >= 1
    g_idx = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
    return {"qweight": pack(quants, 0, range(8)), "qzeros": pack(zeros - 1, 1, range(8)), "scales": scale,
            "g_idx": g_idx}, values


def gptq_act_order(name, weight):
    """Columns are put into groups in an order of their own, which only g_idx remembers."""
    order = torch.randperm(weight.shape[1])
    back = torch.argsort(order)
    quants, zeros, scale, values = int4(weight[:, order], "mlp" in name,
                                        torch.bfloat16 if "q_proj" in name else torch.float16, group=32)
    assert zeros.min() >= 1
    return {"qweight": pack(quants[back.numpy()], 0, range(8)), "qzeros": pack(zeros - 1, 1, range(8)),
            "scales": scale, "g_idx": (back // 32).to(torch.int32)}, values[:, back].to(torch.bfloat16).float()


# name: (config, quantization_config, how a matrix is stored)
MODELS = {
    "int8": (LlamaConfig(**BASE, tie_word_embeddings=False), compressed("int", "channel", "int-quantized"), int8),
    "fp8": (MistralConfig(**NARROW, sliding_window=None, tie_word_embeddings=False),
            compressed("float", "channel", "float-quantized"), fp8),
    "fp8_block": (Qwen3Config(**NARROW, tie_word_embeddings=True),
                  {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                   "weight_block_size": [128, 128]}, fp8_block),
    "awq": (Qwen2Config(**{key: value for key, value in WIDE.items() if key != "head_dim"}, tie_word_embeddings=True),
            {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True,
             "modules_to_not_convert": None}, awq),
    "gptq": (Qwen3Config(**WIDE, tie_word_embeddings=True),
             {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False,
              "checkpoint_format": "gptq"}, gptq),
    "gptq_act_order": (LlamaConfig(**BASE, tie_word_embeddings=False),
                       {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False},
                       gptq_act_order),
}


def make(name, config, quantization, store):
    torch.manual_seed(sum(name.encode()))
    model = AutoModelForCausalLM.from_config(config).float().eval()
    tensors, matrices = {}, {}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif key.endswith("bias"):
                parameter.copy_(0.2 * torch.randn_like(parameter))
            if "proj.weight" in key:
                parts, values = store(key, parameter.detach().clone())
                parameter.copy_(values)
                tensors.update({key.removesuffix("weight") + part: tensor for part, tensor in parts.items()})
                matrices[key] = zlib.crc32((values.numpy() + 0.0).astype("<f4").tobytes())  # no -0
            else:
                rounded = parameter.to(torch.float16 if name == "awq" else torch.bfloat16)
                parameter.copy_(rounded.float())
                tensors[key] = rounded.clone()
    directory = OUT / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, directory / "model.safetensors",
              metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)
    settings = {**json.loads(config.to_json_string()), "architectures": [type(model).__name__],
                "quantization_config": quantization}
    (directory / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    prompt = np.random.default_rng(len(name)).integers(0, config.vocab_size, 41).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].float().numpy()
    golden = {"model": str(directory.relative_to(ROOT)), "prompt": prompt, "vocab_size": len(logits),
              "logits_f32_base64": base64.b64encode(logits.astype("<f4").tobytes()).decode(), "matrices": matrices}
    (OUT / f"{name}.json").write_text(json.dumps(golden) + "\n")
    print(f"{name}: {len(matrices)} matrices, logits up to {np.abs(logits).max():.2f}")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or MODELS:
        make(name, *MODELS[name])


if __name__ == "__main__":
    main()
