#!/usr/bin/env python3
"""Writes tests/golden/gguf: the tiny checkpoints of tests/golden/models as llama.cpp's own converter writes
them, so that our readers of both formats can be held against each other and against transformers.

  python tools/make_gguf_golden.py LLAMA_CPP_CHECKOUT [NAME ...]

(all without a NAME). The checkpoints have no tokenizer, so the vocabulary is left out. qwen2 is split into parts.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests" / "golden" / "models"
OUT = ROOT / "tests" / "golden" / "gguf"
# name: tensors of a part at most; 0: one file
NAMES = {"llama32": 0, "llama_bias": 0, "llama_linear_rope": 0, "qwen2": 16, "qwen2_yarn": 0, "qwen3": 0,
         "gemma3": 0, "mixtral": 0}


def convert(directory, tensors_of_part, copy):
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
    types = {"float32": gguf.LlamaFileType.ALL_F32, "float16": gguf.LlamaFileType.MOSTLY_F16,
             "bfloat16": gguf.LlamaFileType.MOSTLY_BF16}
    hparams = ModelBase.load_hparams(directory, False)
    # Gemma's converter counts the tokens to drop rows behind them.
    shutil.copytree(directory, copy)
    vocabulary = {str(token): token for token in range(hparams["vocab_size"])}
    (copy / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
    base = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    model = type(base.__name__, (base,), {"set_vocab": lambda self: None, "model_arch": base.model_arch})
    with torch.inference_mode():
        model(copy, types[hparams["dtype"]], OUT / f"{directory.name}.gguf",
              split_max_tensors=tensors_of_part).write()


def main():
    checkout = pathlib.Path(sys.argv[1])
    sys.path[:0] = [str(checkout / "gguf-py"), str(checkout)]
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or NAMES:
        tensors_of_part = NAMES[name]
        with tempfile.TemporaryDirectory() as scratch:
            convert(MODELS / name, tensors_of_part, pathlib.Path(scratch) / name)


if __name__ == "__main__":
    main()
