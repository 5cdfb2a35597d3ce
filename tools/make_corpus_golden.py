#!/usr/bin/env python3
"""Writes the multilingual corpus of the tokenizer tests, small vocabularies trained on it, and what
the oracles make of it. All of it goes to tests/golden/tokenizer.

  make_corpus_golden.py corpus           corpus.txt.gz: more than 1 MB in many scripts, and code; texts.json.gz: short ones
  make_corpus_golden.py train            bpe.vocabulary.json.gz and unigram.vocabulary.json.gz (Hugging Face
                                         tokenizers, SentencePiece), and NAME.shell.json that use them
  make_corpus_golden.py hashes NAME …    NAME.corpus.json of NAME.shell.json: for each part of the corpus how
                                         many ids Hugging Face tokenizers give, and their hash
  make_corpus_golden.py expand FOLDER NAME …  FOLDER/NAME.json, the tokenizer.json that a shell stands for
  make_corpus_golden.py unigram_files    the same of the Unigram vocabulary as a GGUF file means it, by Hugging Face tokenizers
  make_corpus_golden.py gguf             vocabularies as GGUF files, and the same of them by llama.cpp
  make_corpus_golden.py real FILE.gguf … the same of whole models

Needs: pip install tokenizers sentencepiece gguf llama-cpp-python protobuf.
"""

import argparse
import base64
import glob
import gzip
import json
import os
import random
import tempfile

from make_tokenizer_golden import RANGES, WRITTEN, assigned, byte_symbols, dump, random_text, write_gz

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DIR = os.path.join(ROOT, "tests", "golden", "tokenizer")
SEED = 20251125
CORPUS_BYTES = 1_050_000
PART_BYTES = 4096  # a part ends at the first end of line after this many bytes

SCRIPTS = [  # letters of a language, how long its words are, what is between them
    ("abcdefghijklmnopqrstuvwxyz", (1, 10), " "), ("abcdefghijklmnopqrstuvwxyzäöüß", (2, 14), " "),
    ("abcdefghijklmnopqrstuvwxyzéèêàçôûïœ", (1, 9), " "), ("abcdefghijklmnñopqrstuvwxyzáéíóú", (1, 9), " "),
    ("aąbcćdeęfghijklłmnńoóprsśtuwyzźż", (2, 11), " "), ("abcçdefgğhıijklmnoöprsştuüvyz", (2, 12), " "),
    ("aăâbcdđeêghiklmnoôơpqrstuưvxyáàảãạấầẩẫậếềểễệốồổỗộớờởỡợ", (1, 6), " "),
    ("αβγδεζηθικλμνξοπρστυφχψωςάέήίόύώ", (2, 10), " "), ("абвгдеёжзийклмнопрстуфхцчшщъыьэюя", (2, 11), " "),
    ("абвгґдеєжзиіїйклмнопрстуфхцчшщьюя", (2, 10), " "), ("אבגדהוזחטיכלמנסעפצקרשת", (2, 7), " "),
    ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", (2, 8), " "), ("اآبپتثجچحخدذرزژسشصضطظعغفقکگلمنوهی", (2, 8), " "),
    ("अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहािीुूेैोौ्ं", (2, 8), " "),
    ("অআইঈউএকখগঘচছজটঠডতথদধনপফবভমযরলশষসহািীুূেো্", (2, 8), " "), ("அஆஇஈஉஎஏஒகஙசஞடணதநபமயரலவழளறனாிீுூெேொ்", (2, 9), " "),
    ("กขคงจฉชซญฎฏดตถทธนบปผฝพฟภมยรลวศษสหอะาิีึืุูเแโไ่้", (3, 20), ""), ("აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ", (2, 10), " "),
    ("աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ", (2, 10), " "), ("አበገደሀወዘሐጠየከለመነሰዐፈጸቀረሠተኀ", (2, 6), " "),
    ([chr(c) for c in range(0x4E00, 0x5400)], (1, 4), ""), ([chr(c) for c in range(0x3041, 0x3097)], (1, 6), ""),
    ([chr(c) for c in range(0x30A1, 0x30FB)], (2, 6), ""), ([chr(c) for c in range(0xAC00, 0xB400, 7)], (1, 4), " "),
]
PUNCTUATION = {"": "。、！？：", " ": ".,;:!?…—-"}


def sentence(rng, script):
    words, separator = script
    out = []
    for _ in range(rng.randint(3, 18)):
        word = words[min(int(rng.paretovariate(0.9)) - 1, len(words) - 1)]
        if separator and rng.random() < 0.06:
            word = word.capitalize()
        if rng.random() < 0.03:
            word = rng.choice(["%d" % rng.randrange(10 ** rng.randint(1, 9)), "(%s)" % word, '"%s"' % word, "%s's" % word,
                               "https://%s.org/?%s=1" % (word, word), "👍🏽", "👩‍👩‍👧", "3.14", "②", "x²", "Å", "ﬁ", "e\u0301"])
        out.append(word)
        if rng.random() < 0.12:
            out[-1] += rng.choice(PUNCTUATION[separator])
    return separator.join(out) + rng.choice(PUNCTUATION[separator])


def corpus(_):
    rng = random.Random(SEED)
    scripts = []
    for letters, (shortest, longest), separator in SCRIPTS:
        words = ["".join(rng.choice(letters) for _ in range(rng.randint(shortest, longest))) for _ in range(2500)]
        scripts.append((words, separator))
    own = sorted(glob.glob(os.path.join(ROOT, "docs", "*.md"))) + sorted(glob.glob(os.path.join(ROOT, "parallel", "*.cc")))
    lines = [line for path in own for line in open(path, encoding="utf-8").read().split("\n")][:4000]
    parts = list(WRITTEN)
    size = 0
    while size < CORPUS_BYTES:
        kind = rng.random()
        if kind < 0.80:
            text = " ".join(sentence(rng, rng.choice(scripts)) for _ in range(rng.randint(1, 5)))
        elif kind < 0.95:
            begin = rng.randrange(len(lines))
            text = "\n".join(lines[begin:begin + rng.randint(1, 12)])
        else:
            text = random_text(rng)
        parts.append(text)
        size += len(text.encode()) + 1
    write_gz(os.path.join(DIR, "corpus.txt.gz"), "\n".join(parts) + "\n")
    texts = WRITTEN[1:] + [random_text(rng) for _ in range(300)] + [
        "x<s>y z", "<unk>a", "<|im_start|>user\nHi<|im_end|>\n", "a  b   c\n\n\n\nd", "<0x0A><0x41>"]
    write_gz(os.path.join(DIR, "texts.json.gz"), dump([text for text in texts if text]))


def read_texts():
    return json.load(gzip.open(os.path.join(DIR, "texts.json.gz"), "rt", encoding="utf-8"))


def read_corpus():
    return gzip.open(os.path.join(DIR, "corpus.txt.gz"), "rb").read()


def split(data):
    begin = 0
    while begin < len(data):
        end = data.find(b"\n", begin + PART_BYTES)
        end = len(data) if end < 0 else end + 1
        yield data[begin:end]
        begin = end


def fingerprint(ids):
    """The number of ids and the 64-bit FNV-1a hash of their little-endian 32-bit numbers."""
    value = 0xCBF29CE484222325
    for i in ids:
        for byte in int(i).to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return [len(ids), f"{value:016x}"]


def write_hashes(name, encode, extra=None):
    data = read_corpus()
    result = {"parts": [fingerprint(encode(part.decode())) for part in split(data)],
              "whole": fingerprint(encode(data.decode())), **(extra or {})}
    with open(os.path.join(DIR, name + ".corpus.json"), "w", encoding="utf-8") as out:
        out.write(dump(result) + "\n")
    print(name, len(result["parts"]), result["whole"])


BYTES = [f"<0x{b:02X}>" for b in range(256)]
ADDED = [(0, "<unk>", True), (1, "<s>", True), (2, "</s>", True)]
SPACES_DECODER = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def added_token(i, content, special, normalized=False, **more):
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": normalized, "special": special, **more}


def template(before, after):
    pieces = [{"SpecialToken": {"id": t, "type_id": 0}} for t, _ in before]
    pieces += [{"Sequence": {"id": "A", "type_id": 0}}] + [{"SpecialToken": {"id": t, "type_id": 0}} for t, _ in after]
    tokens = {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in before + after}
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": tokens}


def write_shell(name, vocabulary, **parts):
    shell = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": None, "post_processor": None, "decoder": None, "vocabulary": vocabulary, **parts}
    with open(os.path.join(DIR, name + ".shell.json"), "w", encoding="utf-8") as out:
        out.write(json.dumps(shell, ensure_ascii=False, indent=1) + "\n")


def bpe_model(**more):
    return {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, **more}


def train_bpe():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=6000, special_tokens=["<unk>", "<s>", "</s>", *BYTES], limit_alphabet=1200,
                                  show_progress=False)
    tokenizer.train_from_iterator(read_corpus().decode().split("\n"), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    write_gz(os.path.join(DIR, "bpe.vocabulary.json.gz"), dump({"vocab": model["vocab"], "merges": model["merges"]}))
    size = len(model["vocab"])
    added = [added_token(*t) for t in ADDED]
    bos = template([("<s>", 1)], [])
    prepend = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    write_shell("llama2", "bpe", added_tokens=added + [added_token(size, "[INST]", False, True), added_token(size + 1, "<tool>", False)],
                normalizer={"type": "Sequence", "normalizers": prepend}, post_processor=bos, model=bpe_model(),
                decoder={"type": "Sequence", "decoders": [*SPACES_DECODER, STRIP]})
    write_shell("mistral", "bpe", added_tokens=added + [added_token(size, "[INST]", True)], post_processor=bos, model=bpe_model(),
                pre_tokenizer={**METASPACE, "prepend_scheme": "first", "split": False},
                decoder={"type": "Sequence", "decoders": [*SPACES_DECODER, STRIP]})
    write_shell("gemma", "bpe", post_processor=template([("<s>", 1)], [("</s>", 2)]), model=bpe_model(),
                added_tokens=added + [added_token(size + i, t, False) for i, t in enumerate(["\n\n", "\n\n\n", "<h1>", "  ", "    "])],
                normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
                decoder={"type": "Sequence", "decoders": SPACES_DECODER})
    # The options that no large model has together.
    write_shell("characters", "bpe", added_tokens=added, model=bpe_model(byte_fallback=False, fuse_unk=False, ignore_merges=True),
                normalizer={"type": "Sequence", "normalizers": [
                    {"type": "NFKC"}, {"type": "Strip", "strip_left": True, "strip_right": True},
                    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
                pre_tokenizer={"type": "Sequence", "pretokenizers": [
                    {"type": "Whitespace"}, {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Digits", "individual_digits": True},
                    METASPACE]}, decoder=METASPACE)


def train_unigram():
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "corpus.txt")
        open(text, "wb").write(read_corpus())
        prefix = os.path.join(folder, "unigram")
        sentencepiece.SentencePieceTrainer.train(input=text, model_prefix=prefix, vocab_size=5000, model_type="unigram",
                                                 character_coverage=0.995, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(open(prefix + ".model", "rb").read())
    vocab = [[piece.piece, piece.score] for piece in proto.pieces]
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    write_gz(os.path.join(DIR, "unigram.vocabulary.json.gz"),
             dump({"vocab": vocab, "precompiled_charsmap": charsmap, "fallback_vocab": vocab + [[b, -30.0] for b in BYTES]}))
    added = [added_token(0, "<pad>", True), added_token(1, "</s>", True), added_token(2, "<unk>", True)]
    precompiled = {"type": "Precompiled", "precompiled_charsmap": "vocabulary"}
    model = {"type": "Unigram", "unk_id": 2, "byte_fallback": False}
    write_shell("t5", "unigram", added_tokens=added + [added_token(len(vocab), "<extra_id_0>", True, lstrip=True, rstrip=True)], model=model,
                normalizer={"type": "Sequence", "normalizers": [precompiled]}, post_processor=template([], [("</s>", 1)]),
                pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}, decoder=METASPACE)
    replace = [{"type": "Replace", "pattern": {"String": "``"}, "content": '"'}]
    write_shell("albert", "unigram", added_tokens=added, model=model, decoder=METASPACE, pre_tokenizer=METASPACE,
                normalizer={"type": "Sequence", "normalizers": [*replace, {"type": "NFKD"}, {"type": "StripAccents"},
                                                                {"type": "Lowercase"}, precompiled]})
    write_shell("unigram_bytes", "unigram", added_tokens=added, model={**model, "byte_fallback": True}, normalizer={"type": "NFD"},
                pre_tokenizer={**METASPACE, "prepend_scheme": "never"},
                decoder={"type": "Sequence", "decoders": [*SPACES_DECODER, STRIP]})


def train(_):
    train_bpe()
    train_unigram()


def expand(name):
    """The tokenizer.json that a shell and its vocabulary stand for."""
    shell = json.load(open(os.path.join(DIR, name + ".shell.json"), encoding="utf-8"))
    source = shell.pop("vocabulary", None)
    if source is None:
        pairs = gzip.open(os.path.join(DIR, "qwen2", "merges.txt.gz"), "rt", encoding="utf-8").read().split("\n")[:-1]
        vocab = {symbol: i for i, symbol in enumerate(sorted(byte_symbols().values()))}
        vocab.update({pair.replace(" ", ""): 256 + i for i, pair in enumerate(pairs)})
        shell["model"].update(vocab=vocab, merges=pairs)
        return shell
    data = json.load(gzip.open(os.path.join(DIR, source + ".vocabulary.json.gz"), "rt", encoding="utf-8"))
    shell["model"]["vocab"] = data["fallback_vocab"] if shell["model"].get("byte_fallback") and "fallback_vocab" in data else data["vocab"]
    if "merges" in data:
        shell["model"]["merges"] = data["merges"]
    for step in (shell["normalizer"] or {}).get("normalizers", []):
        if step.get("precompiled_charsmap") == "vocabulary":
            step["precompiled_charsmap"] = data["precompiled_charsmap"]
    return shell


def hashes(args):
    from tokenizers import Tokenizer

    for name in args.names:
        tokenizer = Tokenizer.from_str(json.dumps(expand(name)))
        write_hashes(name, lambda text: tokenizer.encode(text).ids)


def unigram_files(_):
    """gguf-t5: "▁" before each word and none elsewhere; gguf-t5-bytes: all spaces, and bytes for what has no piece."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, processors

    data = json.load(gzip.open(os.path.join(DIR, "unigram.vocabulary.json.gz"), "rt", encoding="utf-8"))
    charsmap = normalizers.Precompiled(base64.b64decode(data["precompiled_charsmap"]))
    merged = [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" +"), "▁"), normalizers.Prepend("▁")]
    kept = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    for name, vocab, spaces in (("gguf-t5", data["vocab"], merged), ("gguf-t5-bytes", data["fallback_vocab"], kept)):
        # Not by way of JSON: the library reads some scores one bit off, and equal sums are no longer equal.
        tokenizer = Tokenizer(models.Unigram([tuple(piece) for piece in vocab], unk_id=2, byte_fallback="bytes" in name))
        tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in ("<pad>", "</s>", "<unk>")])
        tokenizer.normalizer = normalizers.Sequence([charsmap, *spaces])
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        # Here nobody writes a byte by its token's text.
        texts = [None if "<0x" in text else fingerprint(tokenizer.encode(text).ids) for text in read_texts()]
        write_hashes(name, lambda text: tokenizer.encode(text).ids, {"texts": texts})


def expanded(args):
    for name in args.names:
        json.dump(expand(name), open(os.path.join(args.folder, name + ".json"), "w", encoding="utf-8"))


PRE_TOKENIZERS = ["default", "gpt-2", "llama-bpe", "qwen2", "qwen35", "smollm", "falcon", "deepseek-llm", "deepseek-coder", "deepseek-v3"]
CONTROLS = ["<|begin_of_text|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|fim_pad|>"]


def write_gguf(name, fill):
    import gguf

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        writer = gguf.GGUFWriter(file.name, "llama")
        writer.add_block_count(0)
        writer.add_context_length(512)
        writer.add_embedding_length(8)
        writer.add_head_count(1)
        fill(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        data = open(file.name, "rb").read()
        with open(os.path.join(DIR, name + ".gguf.gz"), "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as out:
            out.write(data)
        write_llama_hashes(name, file.name)


def write_llama_hashes(name, path):
    import llama_cpp

    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(model._model.model)
    count = llama_cpp.llama_vocab_n_tokens(vocab)

    def encode(text):
        return model.tokenize(text.encode(), add_bos=True, special=True)

    # For llama.cpp no pattern of deepseek-llm matches white space outside of ASCII.
    skipped = [text for text in read_texts() if "deepseek-llm" in name and "\u3000" in text]
    cases = [None if text in skipped else [fingerprint(encode(text)), fingerprint(model.tokenize(text.encode(), add_bos=False, special=False))]
             for text in read_texts()]
    write_hashes(name, encode, {
        # llama.cpp takes "</s>" for the end of a text also where it is an ordinary token, HTML's tag.
        "end_ids": [i for i in range(count) if llama_cpp.llama_vocab_is_eog(vocab, i)
                    and not (i != model.token_eos() and model._model.token_get_text(i) == "</s>")],
        "texts": cases})


def gguf_files(_):
    import sentencepiece
    from gguf import TokenType
    from sentencepiece import sentencepiece_model_pb2

    pairs = gzip.open(os.path.join(DIR, "qwen2", "merges.txt.gz"), "rt", encoding="utf-8").read().split("\n")[:2500]
    tokens = sorted(byte_symbols().values()) + [pair.replace(" ", "") for pair in pairs]
    for pre in PRE_TOKENIZERS:
        def fill(writer):
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(pre)
            writer.add_token_list(tokens + CONTROLS + ["<tool_call>"])
            writer.add_token_types([TokenType.NORMAL] * len(tokens) + [TokenType.CONTROL] * len(CONTROLS) + [TokenType.USER_DEFINED])
            writer.add_token_merges(pairs)
            writer.add_bos_token_id(len(tokens))
            writer.add_eos_token_id(len(tokens) + 3)
        write_gguf("gguf-" + pre, fill)

    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "corpus.txt")
        open(text, "wb").write(read_corpus())
        prefix = os.path.join(folder, "bpe")
        sentencepiece.SentencePieceTrainer.train(input=text, model_prefix=prefix, vocab_size=4500, model_type="bpe", byte_fallback=True,
                                                 character_coverage=0.995, normalization_rule_name="identity", minloglevel=2,
                                                 remove_extra_whitespaces=False, split_digits=True, max_sentence_length=100000)
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(open(prefix + ".model", "rb").read())
    for prefix in (True, False):
        def fill(writer):
            writer.add_tokenizer_model("llama")
            writer.add_token_list([piece.piece for piece in proto.pieces] + ["\n\n", "<end_of_turn>"])
            writer.add_token_scores([piece.score for piece in proto.pieces] + [-1000.0, -1000.0])
            writer.add_token_types([piece.type for piece in proto.pieces] + [TokenType.USER_DEFINED, TokenType.NORMAL])
            if not prefix:
                writer.add_add_space_prefix(False)
                writer.add_add_eos_token(True)
        write_gguf("gguf-llama" if prefix else "gguf-llama-plain", fill)


def real(args):
    for path in args.files:
        write_llama_hashes("real-" + os.path.basename(path).removesuffix(".gguf"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("corpus", corpus), ("train", train), ("unigram_files", unigram_files), ("gguf", gguf_files)):
        commands.add_parser(name).set_defaults(run=run)
    command = commands.add_parser("hashes")
    command.add_argument("names", nargs="+")
    command.set_defaults(run=hashes)
    command = commands.add_parser("expand")
    command.add_argument("folder")
    command.add_argument("names", nargs="+")
    command.set_defaults(run=expanded)
    command = commands.add_parser("real")
    command.add_argument("files", nargs="+")
    command.set_defaults(run=real)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
