#!/usr/bin/env python3
"""Trains, exports and evaluates models/pilot, the tiny chat model of Trireme.

  python tools/train_pilot.py               tokenizer, training, export, evaluation
  python tools/train_pilot.py --evaluate    only evaluates the exported checkpoint

Everything comes from models/pilot/corpus: *.jsonl holds one answer a line with its
questions and the held-out paraphrases that training never sees; raw.txt holds plain
continuations as PROMPT|CONTINUATION. The seed is fixed; results on another machine or
thread count differ only by floating-point rounding.
"""

import argparse
import json
import math
import pathlib
import random
import re
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
VOCAB_SIZE = 2048
MAX_POSITIONS = 1024
BOS, EOT_TEXT, HEAD, HEAD_END, EOT = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SPECIAL = [BOS, EOT_TEXT, HEAD, HEAD_END, EOT, "<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>"]
# The pre-tokenizer pattern of Llama 3.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- bos_token }}
{%- if system_message %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + system_message + '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB_SIZE,
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "hidden_act": "silu",
    "max_position_embeddings": MAX_POSITIONS, "rope_theta": 10000.0, "rope_scaling": None,
    "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
    "initializer_range": 0.02, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
}
SYSTEM_PROMPTS = [
    "You are a helpful assistant.", "You are the pilot of Trireme.", "You are Trireme, a helpful assistant.",
    "Answer briefly.", "You are a helpful and concise assistant.", "Be correct and clear.",
]
PREFIXES = [
    "Please: ", "Tell me: ", "Question: ", "Quick question: ", "Hi! ", "Hello, ", "I wonder: ", "Please answer: ",
    "Can you tell me: ", "Could you explain: ", "I would like to know: ", "Hey, ", "So, ", "And ", "Please explain: ",
    "Can you help me? ", "I have a question. ", "One more thing: ",
]
SUFFIXES = [" Thanks.", " please", " Please explain.", " Be brief.", " I am new to this.", " Thank you.",
            " Explain it to me.", " In short?"]


# ---------------------------------------------------------------- corpus

def read_corpus(folder):
    """Returns (entries, raw): dictionaries of answer, questions, held_out; (prompt, continuation) pairs."""
    entries = []
    for path in sorted(folder.glob("*.jsonl")):
        entries += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    raw = [tuple(line.split("|")) for line in (folder / "raw.txt").read_text(encoding="utf-8").splitlines()]
    seen = {}
    for entry in entries:
        for question in entry["questions"] + entry["held_out"]:
            owner = seen.setdefault(question.lower().strip(" ?!."), entry["id"])
            if owner != entry["id"]:
                raise SystemExit(f"'{question}' belongs to both {owner} and {entry['id']}")
        if set(entry["questions"]) & set(entry["held_out"]):
            raise SystemExit(f"{entry['id']}: a held-out question is also a training question")
    return entries, raw


def vary(question, rng):
    """A mild random variation of a question; often the question itself."""
    if rng.random() < 0.35:
        return question
    text = question
    words = text.split(" ")
    if len(words) > 3 and rng.random() < 0.45:  # lose words
        drop = rng.choice([0.1, 0.2, 0.35])
        kept = [word for word in words if rng.random() >= drop]
        text = " ".join(kept) if len(kept) >= 2 else text
    if text.startswith("What is ") and rng.random() < 0.25:
        what = text[8:].rstrip("?")
        text = rng.choice([f"What's {what}?", f"Can you tell me what {what} is?", f"Do you know what {what} is?",
                           f"I want to know what {what} is.", f"{what}?", f"{what}"])
    if len(text) > 12 and rng.random() < 0.08:  # a typing error
        at = rng.randrange(1, len(text) - 2)
        text = text[:at] + text[at + 1] + text[at] + text[at + 2:]
    if len(text) > 15:
        if rng.random() < 0.3:
            text = rng.choice(PREFIXES) + (text[0].lower() + text[1:] if rng.random() < 0.5 else text)
        elif rng.random() < 0.12:
            text += rng.choice(SUFFIXES)
        elif rng.random() < 0.06:
            text = text.rstrip("?.") + " in Trireme?"
    if rng.random() < 0.35:
        text = text.rstrip("?.!")
    if rng.random() < 0.35:
        text = text.lower()
    return text.strip() or question


# ---------------------------------------------------------------- tokenizer

def write_tokenizer(out, entries, raw):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    texts = ["\n\n" + text for entry in entries for text in [entry["answer"]] * 3 + entry["questions"]]
    texts += [text.lower() for text in texts] + ["".join(pair) for pair in raw] + SYSTEM_PROMPTS
    texts += PREFIXES * 4 + SUFFIXES * 4 + ["user", "assistant", "system"] * 100
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL), min_frequency=2, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, bos)])])
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"vocabulary has {tokenizer.get_vocab_size()} tokens, not {VOCAB_SIZE}")
    tokenizer.save(str(out / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    write_json(out / "tokenizer_config.json", {
        "added_tokens_decoder": {str(i): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True} for token, i in ids.items()},
        "bos_token": BOS, "eos_token": EOT, "pad_token": EOT_TEXT, "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE, "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MAX_POSITIONS, "tokenizer_class": "PreTrainedTokenizerFast"})
    eos = [ids[EOT], ids[EOT_TEXT]]
    write_json(out / "config.json", {**CONFIG, "bos_token_id": ids[BOS], "eos_token_id": eos, "pad_token_id": eos[1]})
    write_json(out / "generation_config.json", {
        "bos_token_id": ids[BOS], "eos_token_id": eos, "pad_token_id": eos[1], "do_sample": False,
        "max_new_tokens": 128})
    return tokenizer


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- samples

class Encoder:
    """Token ids with a loss weight each, in exactly the form that the chat template renders."""

    def __init__(self, tokenizer):
        self.tokenizer, self.cache = tokenizer, {}
        self.id = {token: tokenizer.token_to_id(token) for token in SPECIAL}

    def plain(self, text):
        if text not in self.cache:
            self.cache[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.cache[text]

    def message(self, role, content, weight):
        head = [self.id[HEAD], *self.plain(role), self.id[HEAD_END], *self.plain("\n\n")]
        body = [*self.plain(content), self.id[EOT]]
        return head + body, [0.0] * len(head) + [weight] * len(body)

    def conversation(self, system, turns):
        ids, weights = [self.id[BOS]], [0.0]
        messages = [("system", system, 0.0)] if system else []
        for question, answer in turns:
            messages += [("user", question, 0.1), ("assistant", answer, 1.0)]
        for message in messages:
            more_ids, more_weights = self.message(*message)
            ids, weights = ids + more_ids, weights + more_weights
        return ids, weights

    def text(self, text):
        body = self.plain(text) + [self.id[EOT_TEXT]]
        return [self.id[BOS]] + body, [0.0] + [1.0] * len(body)


def epoch(entries, raw, encoder, rng, tokens_per_batch):
    """One pass over all questions, in random conversations, as batches of similar length."""
    pairs = [(vary(question, rng), entry["answer"]) for entry in entries for question in entry["questions"]]
    rng.shuffle(pairs)
    samples = []
    while pairs:
        turns = rng.choices([1, 2, 3, rng.randint(4, 8)], [0.74, 0.16, 0.08, 0.02])[0]
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.25 else None
        samples.append(encoder.conversation(system, pairs[:turns]))
        pairs = pairs[turns:]
    samples += [encoder.text(prompt + continuation) for prompt, continuation in raw]
    samples += [encoder.text(entry["answer"]) for entry in rng.sample(entries, len(entries) // 8)]
    samples.sort(key=lambda sample: len(sample[0]) + rng.random() * 8)
    batches, batch = [], []
    for sample in samples:
        if batch and (len(batch) + 1) * max(len(sample[0]), len(batch[-1][0])) > tokens_per_batch:
            batches.append(batch)
            batch = []
        batch.append(sample)
    batches.append(batch)
    rng.shuffle(batches)
    return batches


def collate(batch, pad):
    length = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in batch])
    weights = torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights in batch])
    return ids, weights


# ---------------------------------------------------------------- training

def forced_accuracy(model, encoder, pairs):
    """Share of answers that greedy decoding would reproduce, found in one forward pass for each batch."""
    samples = sorted((encoder.conversation(None, [pair]) for pair in pairs), key=lambda sample: len(sample[0]))
    right = 0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(samples), 32):
            ids, weights = collate(samples[start:start + 32], encoder.id[EOT_TEXT])
            same = model(input_ids=ids).logits[:, :-1].argmax(-1) == ids[:, 1:]
            right += (same | (weights[:, 1:] < 1.0)).all(1).sum().item()
    model.train()
    return right / len(samples)


def export(model, out):
    state = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()
             if name != "lm_head.weight"}
    save_file(state, str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)


def train(args, entries, raw):
    rng = random.Random(args.seed)
    torch.manual_seed(args.seed)
    encoder = Encoder(write_tokenizer(args.out, entries, raw))
    check_template(args.out, encoder)
    model = LlamaForCausalLM(LlamaConfig(**json.loads((args.out / "config.json").read_text()),
                                         attn_implementation="sdpa")).float()
    parameters = sum(tensor.numel() for tensor in model.parameters())
    decayed = [tensor for tensor in model.parameters() if tensor.dim() > 1]
    others = [tensor for tensor in model.parameters() if tensor.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.95), fused=True)
    held_out = [(question, entry["answer"]) for entry in entries for question in entry["held_out"]]
    trained = [(question, entry["answer"]) for entry in entries for question in entry["questions"]]
    sampled = random.Random(1).sample(trained, min(len(trained), 250))
    log = open(args.out / "training_log.csv", "w", encoding="utf-8")

    def note(line):
        print(line, flush=True)
        log.write(line + "\n")
        log.flush()

    print(f"{parameters} parameters, {len(entries)} answers, {len(trained)} questions, {len(held_out)} held out")
    note("step,epoch,tokens,lr,loss,train_exact,held_out_exact,tokens_per_s,elapsed_s")
    start, tokens, step, passes, losses, batches = time.time(), 0, 0, 0, [], []
    progress = 0.0
    while progress < 1.0:
        if not batches:
            batches, passes = epoch(entries, raw, encoder, rng, args.batch_tokens), passes + 1
        ids, weights = collate(batches.pop(), encoder.id[EOT_TEXT])
        progress = max(step / args.steps, (time.time() - start) / 60 / args.max_minutes)
        lr = args.lr * min(1.0, (step + 1) / 150) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
        for group in optimizer.param_groups:
            group["lr"] = lr
        targets, weights = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state.reshape(-1, CONFIG["hidden_size"])
        used = weights > 0
        loss = F.cross_entropy(model.lm_head(hidden[used]), targets[used], reduction="none")
        answers = weights[used] >= 1.0
        ((loss * weights[used]).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss[answers].mean().item())
        tokens, step = tokens + ids.numel(), step + 1
        if step % 50 == 0 or progress >= 1.0:
            exact = ["", ""]
            if step % 300 == 0 or progress >= 1.0:
                exact = [f"{forced_accuracy(model, encoder, part):.3f}" for part in (sampled, held_out)]
            elapsed = time.time() - start
            note(f"{step},{passes},{tokens},{lr:.6f},{sum(losses) / len(losses):.4f},{exact[0]},{exact[1]},"
                 f"{tokens / elapsed:.0f},{elapsed:.0f}")
            losses = []
        if step % 300 == 0:
            export(model, args.out)
    export(model, args.out)
    log.close()


def check_template(out, encoder):
    """The encoder must agree with the chat template, or training and serving would differ."""
    tokenizer = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is TP?"},
                {"role": "assistant", "content": "A split."}, {"role": "user", "content": "  hi\n"}]
    ids, _ = encoder.conversation("Be brief.", [("What is TP?", "A split.")])
    ids += encoder.message("user", "hi", 0)[0] + encoder.message("assistant", "", 0)[0][:-1]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if tokenizer(rendered, add_special_tokens=False)["input_ids"] != ids:
        raise SystemExit("the encoder and the chat template disagree")
    every_byte = bytes(range(256)).decode("latin-1") + "æ ☂ 😀"
    if tokenizer.decode(tokenizer(every_byte, add_special_tokens=False)["input_ids"]) != every_byte:
        raise SystemExit("the tokenizer does not round-trip")


# ---------------------------------------------------------------- evaluation

def generate(model, tokenizer, prompts, batch_size=48):
    """Greedy continuations of rendered prompts, in their order."""
    tokenizer.padding_side = "left"
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    outputs = [None] * len(prompts)
    for start in range(0, len(order), batch_size):
        part = order[start:start + batch_size]
        inputs = tokenizer([prompts[i] for i in part], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            result = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                                    do_sample=False, max_new_tokens=128)
        for i, ids in zip(part, result[:, inputs["input_ids"].shape[1]:].tolist()):
            text = tokenizer.decode(ids, skip_special_tokens=False)
            # Only an answer that ends by itself counts: keep the end token, drop the padding after it.
            outputs[i] = re.split(r"(?<=<\|eot_id\|>)|(?<=<\|end_of_text\|>)", text)[0]
    return outputs


def evaluate(args, entries, raw):
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    model = AutoModelForCausalLM.from_pretrained(args.out, dtype=getattr(torch, args.dtype)).eval()

    def render(*contents, system=None):
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    trained = [(question, entry["answer"]) for entry in entries for question in entry["questions"]]
    held_out = [(question, entry["answer"]) for entry in entries for question in entry["held_out"]]
    answers = {entry["answer"] + EOT for entry in entries}
    rng = random.Random(7)
    first = [rng.choice(trained) for _ in trained]
    part = rng.sample(range(len(trained)), min(len(trained), 300))
    sets = {
        "training questions": [(render(q), a + EOT) for q, a in trained],
        "held-out paraphrases": [(render(q), a + EOT) for q, a in held_out],
        "training questions, lower case without punctuation":
            [(render(trained[i][0].lower().strip("?.!")), trained[i][1] + EOT) for i in part],
        "training questions with a system prompt":
            [(render(trained[i][0], system=SYSTEM_PROMPTS[i % 6]), trained[i][1] + EOT) for i in part],
        "training questions as second turn": [(render(*first[i], trained[i][0]), trained[i][1] + EOT) for i in part],
        "plain continuations": [(BOS + prompt, continuation + EOT_TEXT) for prompt, continuation in raw],
    }
    report = []
    for name, pairs in sets.items():
        outputs = generate(model, tokenizer, [prompt for prompt, _ in pairs])
        right = sum(output == answer for output, (_, answer) in zip(outputs, pairs))
        known = sum(output in answers for output in outputs)
        line = f"{name}: {right} of {len(pairs)} exact ({100 * right / len(pairs):.1f} %)"
        if name != "plain continuations":
            line += f", {known} are some answer of the corpus word for word"
        report.append(line)
        print(line, flush=True)
        for output, (prompt, answer) in zip(outputs, pairs):
            if args.verbose and output != answer:
                print(f"  {prompt.split(HEAD_END)[-2].split(EOT)[0].strip() if HEAD in prompt else prompt}\n"
                      f"    got  {output}\n    want {answer}")
    (args.out / "evaluation.txt").write_text("\n".join(report) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the exported checkpoint")
    parser.add_argument("--corpus", type=pathlib.Path, default=ROOT / "models/pilot/corpus")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "models/pilot")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--max-minutes", type=float, default=1e9, help="end the schedule early at this wall time")
    parser.add_argument("--batch-tokens", type=int, default=1536)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="compute type of the evaluation")
    parser.add_argument("--verbose", action="store_true", help="print every wrong answer")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    entries, raw = read_corpus(args.corpus)
    if not args.evaluate:
        train(args, entries, raw)
    evaluate(args, entries, raw)


if __name__ == "__main__":
    main()
