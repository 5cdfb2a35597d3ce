"""llama.cpp through llama-cpp-python's low-level interface: a model, a context, and batches as we plan them.

For make_llama_cpp_golden.py and compare_llama_cpp.py.
"""

import ctypes

import llama_cpp as lib
import numpy as np


@lib.llama_log_callback
def _only_errors(level, text, user_data):
    if level == 4:  # GGML_LOG_LEVEL_ERROR
        print(text.decode(), end="")


class Session:
    """One model and one context."""

    def __init__(self, path, threads, context=2048, batch=512, sequences=1, flash_attention=False,
                 exact_cache=False):
        lib.llama_log_set(_only_errors, ctypes.c_void_p(0))
        lib.llama_backend_init()
        model = lib.llama_model_default_params()
        self.model = lib.llama_model_load_from_file(str(path).encode(), model)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.vocab_size = lib.llama_vocab_n_tokens(self.vocab)
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = context
        parameters.n_batch = parameters.n_ubatch = batch
        parameters.n_seq_max = sequences
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.flash_attn_type = int(flash_attention)
        if exact_cache:
            parameters.type_k = parameters.type_v = 0  # GGML_TYPE_F32
        self.context = lib.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot make a context for {path}")
        self.memory = lib.llama_get_memory(self.context)
        self.batch = lib.llama_batch_init(batch, 0, 1)

    def close(self):
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.context)
        lib.llama_model_free(self.model)

    def tokenize(self, text, add_special=True):
        data = text.encode()
        tokens = (lib.llama_token * (len(data) + 16))()
        count = lib.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), add_special, True)
        return list(tokens[:count])

    def clear(self):
        lib.llama_memory_clear(self.memory, True)

    def decode(self, rows):
        """One llama_decode of (token, position, sequence, wants logits) rows."""
        for i, (token, position, sequence, logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = logits
        self.batch.n_tokens = len(rows)
        if lib.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama_decode failed")

    def logits(self, row):
        """The logits of a row of the last batch; valid until the next."""
        pointer = lib.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(pointer, shape=(self.vocab_size,))
