#!/usr/bin/env python3
"""Writes golden files for the tokenizer tests, with Hugging Face `tokenizers` as the oracle.

  make_tokenizer_golden.py golden TOKENIZER_JSON OUT.json.gz [--random N] [--long]
      Encodes and decodes the corpus with a tokenizer.json; OUT has the texts, the ids and what
      they decode to. --random: how many pseudo-random strings beside the written ones.
  make_tokenizer_golden.py merges RANKS.tiktoken OUT.txt.gz
      A tiktoken rank file (base64 token, rank a line) as a merge list, one merge a line.
  make_tokenizer_golden.py expand MERGES.txt.gz SHELL.json OUT.json
      The tokenizer.json that a merge list and a shell (a tokenizer.json without vocab and merges)
      stand for: ids 0 to 255 are the bytes in order of their symbols, id 256 + n is merge n.
  make_tokenizer_golden.py utf8 OUT.json.gz
      Ill-formed byte strings and what bytes.decode("utf-8", "replace") makes of them.

make_corpus_golden.py expands the shells of vocabularies other than Qwen2's.

Needs: pip install tokenizers.
"""

import argparse
import base64
import gzip
import json
import random
import unicodedata

SEED = 20240517

WRITTEN = [
    "", " ", "  ", "a", "Hello, world!", "Hello world", " Hello  world  ", "\n", "\n\n", "\r\n\r\n", "\t\t x",
    "The quick brown fox jumps over the lazy dog.",
    "I'm you're he'll they've I'd it's don't I'M YOU'RE HE'LL THEY'VE I'D IT'S DON'T 'S 'T 'RE 'VE 'M 'LL 'D",
    "it\u2019s don\u2019t 'ſ 'ſt'ſ IT'ſ a'Ss 'reve 'sx 'SX x'lL x'Ll 'K 'K",
    "naïve café déjà vu Ångström Łódź Škoda ñandú über straße İstanbul ığdır",
    "nai\u0308ve cafe\u0301 de\u0301ja\u0300 A\u030angstro\u0308m q\u0323\u0307 q\u0307\u0323 \u1e0b\u0323",
    "Ελληνικά: Η γρήγορη αλεπού πηδάει. ΟΔΥΣΣΕΥΣ ὕβρις ἀρχή",
    "Быстрая коричневая лиса. Ёлка й и\u0306 ї Україна",
    "مرحبا بالعالم! ١٢٣٤٥ السَّلَامُ عَلَيْكُمْ ﷺ لا",
    "שָׁלוֹם עוֹלָם שלום 123", "नमस्ते दुनिया १२३४५ क्षत्रिय हिन्दी", "สวัสดีชาวโลก ๑๒๓ ภาษาไทย กำ",
    "你好，世界！今天天气很好。１２３４５ 中文和English混排", "こんにちは世界。カタカナ ｶﾀｶﾅ ひらがな が か\u3099 パ ハ\u309a", "안녕하세요 세계 \u1112\u1161\u11ab\u1100\u116e\u11a8",
    "👍 😀😃😄 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷🇯🇵 👋🏽 ❤️ 1️⃣ #️⃣ ☺︎", "a\u0300\u0301\u0302\u0323\u0330 \u0301\u0301 \u0344 \u0f71\u0f72\u0f74 \u0340\u0341\u0343\u0374\u212b\u2126\u212a",
    "z\u0351\u032b\u0343\u036a\u0302\u032b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a\u032f\u031e\u0320\u034da\u036b\u0357\u0334\u0362\u0335\u031c\u0330\u0354l",
    "tabs\tand\t\tmore\r\nCRLF\r\nNBSP\u00a0x\u00a0\u00a0y ideographic\u3000space\u3000\u3000 NEL\u0085x\u0085\u0085 y\u2028ls\u2029ps",
    "a\u180eb \u180e c\u180e\u180e \u180e\n zero\u200bwidth\u200c\u200d\u2060 bom\ufeff \ufeffx thin\u2009\u200a\u202f\u205f ogham\u1680x",
    "   leading\n   indented\n\t\tmixed \n \n  \n x", "trailing   ", "trailing\n\n", "a \n b  \n\n  c \r d \r\r e\x0b\x0c f",
    "0 1 12 123 1234 12345 123456 1234567 12345678901234567890 3.14159 1,000,000 0x1F 1e-5 ²³¼½Ⅳ①५٣",
    "def f(x: int) -> str:\n    \"\"\"Doc.\"\"\"\n    return f'{x!r:>10}'  # comment\n\n\nclass A:\n\tpass\n",
    "#include <vector>\nint main() { std::vector<int> v{1,2,3}; for (auto& x : v) x <<= 2; return v[0] != 4; }\n",
    "<html><body class=\"a b\">&amp;&nbsp;</body></html> {\"k\": [1, 2.5e3, null, true]}",
    "https://example.com/path?q=1&r=%20#frag user@example.org C:\\dir\\file.txt ../../x", "!!!??? ... --- *** === ((([[[{{{ }}}]]]))) $%^&*()_+~`|\\/:;<>,.",
    "!a .b ,c -d (e) [f] _g_ __init__ snake_case camelCase HTTPServer kebab-case", "\x00\x01\x02 \x07\x08\x1b[31mred\x1b[0m \x7f\x80\x9f \x1c\x1d\x1e\x1f",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "x<|endoftext|>y <|im_start|>system\nz<|im_end|>\n<|im_end|><|im_end|> <|im_start",
    "<|endoftext|", "<|<|endoftext|>|>", "<tool_call>\n{\"name\": 1}\n</tool_call> <think> hm </think>", "<think><think", "a [MASK] b  [MASK]c[MASK]  \n d",
    "café_tok cafe\u0301_tok xcafé_tok", " word onetok wordonetok onetokword onetok.", "onetok onetok-onetok onetok_ onetok\u0301 éonetok", "\u00a0[MASK]\u3000x",
    "x" * 3000, "ab" * 1500, " " * 500, " " * 100 + "x", "\n" * 300, " \n" * 150, "é" * 700, "中" * 500, "1" * 1000, "!" * 700,
    "supercalifragilisticexpialidocious antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis Donaudampfschifffahrtsgesellschaftskapitän",
    "\u0378 \u0530 unassigned \ue000 private \U000f0000 \U0010ffff \ufffe \uffff noncharacters \ufffd",
    "ﬁ ﬂ ﬆ ŉ ǰ ẖ ΐ և ẞ ꟿ 𝒳𝓎𝔷 𝟘𝟙 𐐷𐑉 𓀀 𒀀", "İ ı K Å Ω ſ ẛ ẛ\u0323", "가각갂 가\u11a8 \u1100\u1161\u11a8 \u1100\u1100 \u1161",
]

RANGES = [
    (0x20, 0x7E, 30), (0x00, 0x1F, 3), (0x80, 0xFF, 6), (0x100, 0x24F, 5), (0x300, 0x36F, 6), (0x370, 0x3FF, 3),
    (0x400, 0x52F, 3), (0x590, 0x5FF, 2), (0x600, 0x6FF, 3), (0x900, 0x97F, 3), (0xE00, 0xE7F, 2), (0x1100, 0x11FF, 2),
    (0x1E00, 0x1FFF, 3), (0x2000, 0x206F, 5), (0x2070, 0x2BFF, 4), (0x3000, 0x30FF, 4), (0x4E00, 0x9FFF, 4),
    (0xA000, 0xABFF, 1), (0xAC00, 0xD7A3, 2), (0xF900, 0xFFFD, 3), (0x10000, 0x1FFFF, 4), (0x20000, 0x2FFFF, 1),
    (0xE0000, 0xE01FF, 1), (0x800, 0xFFFF, 4),
]
PIECES = [" ", "  ", "   ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u0085", "\u180e", "'s", "'S", "'LL", "'re", "123", "4567",
          "12", "<|endoftext|>", "<|im_start|>", "<|eot_id|>", "[MASK]", "the", " and", " World", "e\u0301", "{", "});", "...", "!", "_"]


def assigned(c):
    # Unicode 14, which both engines know; later versions differ in what they call a letter.
    return unicodedata.category(chr(c)) not in ("Cs", "Cn")


def random_text(rng):
    parts = []
    ranges = rng.choices(RANGES, [r[2] for r in RANGES], k=rng.randint(1, 3))
    for _ in range(rng.randint(1, 40)):
        if rng.random() < 0.25:
            parts.append(rng.choice(PIECES))
            continue
        low, high, _ = rng.choice(ranges)
        c = rng.randint(low, high)
        if assigned(c):
            parts.append(chr(c))
    return "".join(parts)


def corpus(count, long_texts):
    rng = random.Random(SEED)
    texts = list(WRITTEN)
    if long_texts:
        texts.append(" ".join(random_text(rng) for _ in range(2000)))
    return texts + [random_text(rng) for _ in range(count)]


def write_gz(path, text):
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as out:
        out.write(text.encode())


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def golden(args):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(args.tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    cases = []
    for text in corpus(args.random, args.long):
        ids = tokenizer.encode(text).ids
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = True
        unparsed = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        case = {"text": text, "ids": ids}
        if plain != ids:
            case["plain"] = plain
        if unparsed != plain:
            case["unparsed"] = unparsed
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if decoded != text:
            case["decoded"] = decoded
        skipped = tokenizer.decode(ids, skip_special_tokens=True)
        if skipped != decoded:
            case["skipped"] = skipped
        cases.append(case)
    rng = random.Random(SEED)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    sequences = []
    fallback = tokenizer.token_to_id("<0x00>") is not None
    for _ in range(min(args.random, 500)):
        ids = [rng.randrange(size) if fallback or rng.random() < 0.5 else rng.randrange(256) for _ in range(rng.randint(1, 30))]
        # Of bytes that form no character ByteFallback makes one U+FFFD each; ours, one for each maximal part.
        if fallback and "\ufffd" in tokenizer.decode(ids, skip_special_tokens=False):
            continue
        sequences.append({"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                          "skipped": tokenizer.decode(ids, skip_special_tokens=True)})
    write_gz(args.out, dump({"encode": cases, "decode": sequences}))
    print(f"{args.out}: {len(cases)} texts, {len(sequences)} id sequences")


def byte_symbols():
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {b: chr(b) for b in own}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(own))
    return table


def split_by_rank(ranks, token, rank):
    """The two parts that a token of a tiktoken file is merged from."""
    parts = [bytes([b]) for b in token]
    while True:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 60), default=None)
        if best is None or ranks.get(parts[best] + parts[best + 1], 1 << 60) >= rank:
            return parts
        parts[best : best + 2] = [parts[best] + parts[best + 1]]


def merges(args):
    symbols = byte_symbols()
    ranks = {}
    with open(args.ranks, "rb") as lines:
        for line in lines:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    out = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = split_by_rank(ranks, token, rank)
        assert len(parts) == 2 and rank == 256 + len(out), (token, rank)
        out.append(" ".join("".join(symbols[b] for b in part) for part in parts))
    write_gz(args.out, "\n".join(out) + "\n")


def expand(args):
    shell = json.load(open(args.shell, encoding="utf-8"))
    pairs = gzip.open(args.merges, "rt", encoding="utf-8").read().split("\n")[:-1]
    vocab = {symbol: i for i, symbol in enumerate(sorted(byte_symbols().values()))}
    for i, pair in enumerate(pairs):
        vocab[pair.replace(" ", "")] = 256 + i
    shell["model"]["vocab"] = vocab
    shell["model"]["merges"] = pairs
    json.dump(shell, open(args.out, "w", encoding="utf-8"), ensure_ascii=False)


def utf8(args):
    rng = random.Random(SEED)
    pool = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE,
            0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF]
    cases = [bytes(rng.choice(pool) for _ in range(rng.randint(1, 12))) for _ in range(3000)]
    write_gz(args.out, dump([[list(case), case.decode("utf-8", "replace")] for case in cases]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("golden")
    command.add_argument("tokenizer")
    command.add_argument("out")
    command.add_argument("--random", type=int, default=1000)
    command.add_argument("--long", action="store_true")
    command.set_defaults(run=golden)
    for name, run, names in (("merges", merges, ["ranks", "out"]), ("expand", expand, ["merges", "shell", "out"]),
                             ("utf8", utf8, ["out"])):
        command = commands.add_parser(name)
        for argument in names:
            command.add_argument(argument)
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
