"""A GGUF model of Qwen 2 or Gemma 3 in plain numpy float32, on its dequantised weights.

For make_llama_cpp_golden.py.
"""

import gguf
import numpy as np


class Reference:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        name = reader.fields["general.architecture"].contents()
        value = lambda key: reader.fields[f"{name}.{key}"].contents()
        self.gemma = name == "gemma3"
        self.layers, self.hidden = value("block_count"), value("embedding_length")
        self.heads, self.kv_heads = value("attention.head_count"), value("attention.head_count_kv")
        self.head_dim = value("attention.key_length") if self.gemma else self.hidden // self.heads
        self.eps, self.theta = value("attention.layer_norm_rms_epsilon"), value("rope.freq_base")
        self.window = value("attention.sliding_window") if self.gemma else 0

    def weight(self, name):
        tensor = self.tensors[name]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weight(name)

    def rope(self, x, theta):
        angles = np.arange(len(x))[:, None] * theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        cos, sin = np.cos(angles)[:, None].astype(np.float32), np.sin(angles)[:, None].astype(np.float32)
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, first * sin + second * cos], -1)

    def attention(self, layer, x):
        prefix, tokens = f"blk.{layer}.attn_", len(x)
        q, k, v = (x @ self.weight(f"{prefix}{part}.weight").T for part in "qkv")
        if prefix + "q.bias" in self.tensors:
            q, k, v = (y + self.weight(f"{prefix}{part}.bias") for y, part in zip((q, k, v), "qkv"))
        q, k, v = (y.reshape(tokens, -1, self.head_dim) for y in (q, k, v))
        if self.gemma:
            q, k = self.norm(q, prefix + "q_norm.weight"), self.norm(k, prefix + "k_norm.weight")
        windowed = self.gemma and (layer + 1) % 6 != 0
        theta = 10000.0 if windowed else self.theta
        q, k = self.rope(q, theta), self.rope(k, theta)
        distance = np.arange(tokens)[:, None] - np.arange(tokens)[None]
        unseen = (distance < 0) | (windowed & (distance >= self.window))
        mixed = np.empty_like(q)
        for head in range(self.heads):
            kv = head // (self.heads // self.kv_heads)
            scores = q[:, head] @ k[:, kv].T / np.sqrt(self.head_dim)
            scores[unseen] = -np.inf
            chances = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = chances @ v[:, kv] / chances.sum(-1, keepdims=True)
        return mixed.reshape(tokens, -1) @ self.weight(prefix + "output.weight").T

    def feed_forward(self, layer, x):
        gate = x @ self.weight(f"blk.{layer}.ffn_gate.weight").T
        if self.gemma:
            gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        up = x @ self.weight(f"blk.{layer}.ffn_up.weight").T
        return (gate * up) @ self.weight(f"blk.{layer}.ffn_down.weight").T

    def mean_nll(self, tokens):
        """The mean negative log likelihood of every token but the first, each given all before it."""
        embedding = self.weight("token_embd.weight")
        x = (embedding[tokens] * (np.sqrt(self.hidden) if self.gemma else 1)).astype(np.float32)
        for layer in range(self.layers):
            y = self.attention(layer, self.norm(x, f"blk.{layer}.attn_norm.weight"))
            x = x + (self.norm(y, f"blk.{layer}.post_attention_norm.weight") if self.gemma else y)
            y = self.feed_forward(layer, self.norm(x, f"blk.{layer}.ffn_norm.weight"))
            x = (x + (self.norm(y, f"blk.{layer}.post_ffw_norm.weight") if self.gemma else y)).astype(np.float32)
        head = self.weight("output.weight") if "output.weight" in self.tensors else embedding
        x, total = self.norm(x, "output_norm.weight").astype(np.float32), 0.0
        for begin in range(0, len(tokens) - 1, 128):
            wanted = tokens[begin + 1:begin + 129]
            logits = (x[begin:begin + len(wanted)] @ head.T).astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            chosen = logits[np.arange(len(wanted)), wanted]
            total += (np.log(np.exp(logits).sum(-1)) - chosen).sum()
        return total / (len(tokens) - 1)
