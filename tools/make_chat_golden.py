#!/usr/bin/env python3
"""Writes the golden files of the chat template tests, with Jinja2 as the oracle.

  make_chat_golden.py                 tests/golden/chat/golden.json.gz, of sources.json and templates/*.jinja there
  make_chat_golden.py --fetched DIR   tests/golden/chat/fetched.json.gz, of those DIR/*.jinja that are not there:
                                      tools/fetch_test_models.sh fetches them, since not all are ours to publish

sources.json has {"conversations": {NAME: {"messages": […], "tools": […], …}}, "templates": {NAME: ["line", …]},
"snippets": ["…"]}. Every template renders every conversation, a snippet only "tools", in the environment that
transformers' apply_chat_template makes, with a fixed clock in UTC. A golden file has {"templates": {NAME: {"sha256": …,
"renderings": {CONVERSATION: {"expected": …}}}}, "snippets": [{"expected": …}]}, with "error" in the place of "expected"
where rendering fails. Of fetched templates, whose words are their makers', it has "expected_sha256".

Needs: pip install jinja2.
"""

import argparse
import datetime
import gzip
import hashlib
import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHAT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/chat"
NOW_UNIX_S = 1721995200  # 2024-07-26 12:00 UTC


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def make_environment():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    now = datetime.datetime.fromtimestamp(NOW_UNIX_S, datetime.timezone.utc)
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = now.strftime
    return environment


def render(environment, source, data):
    variables = {
        "messages": data.get("messages", []),
        "tools": data.get("tools"),
        "documents": None,
        "add_generation_prompt": data.get("add_generation_prompt", True),
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        **data.get("extra", {}),
    }
    try:
        return {"expected": environment.from_string(source).render(**variables)}
    except Exception as error:  # whatever Python raises, the interpreter must refuse too
        return {"error": f"{type(error).__name__}: {error}"}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def read_templates(directory):
    # Bytes as they are: a line end in the file is one in the template.
    return {path.stem: path.read_bytes().decode() for path in sorted(directory.glob("*.jinja"))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetched", type=pathlib.Path, metavar="DIR")
    fetched = parser.parse_args().fetched
    sources = json.loads((CHAT / "sources.json").read_text(encoding="utf-8"))
    conversations = sources["conversations"]
    environment = make_environment()
    published = read_templates(CHAT / "templates")
    if fetched is not None:
        templates = {name: source for name, source in read_templates(fetched).items() if name not in published}
        snippets = []
    else:
        own = {name: "\n".join(lines) for name, lines in sources["templates"].items()}
        templates, snippets = own | published, sources["snippets"]
    golden = {
        "templates": {
            name: {
                "sha256": digest(source),
                "renderings": {chat: render(environment, source, data) for chat, data in conversations.items()},
            }
            for name, source in templates.items()
        },
        "snippets": [render(environment, source, conversations["tools"]) for source in snippets],
    }
    if fetched is not None:
        for template in golden["templates"].values():
            for text in template["renderings"].values():
                if "expected" in text:
                    text["expected_sha256"] = digest(text.pop("expected"))
    out = CHAT / ("golden.json.gz" if fetched is None else "fetched.json.gz")
    text = json.dumps(golden, ensure_ascii=False, indent=0)
    out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    rendered = [text for one in golden["templates"].values() for text in one["renderings"].values()]
    errors = sum("error" in text for text in rendered)
    print(f"{out}: {len(templates)} templates, {len(rendered)} renderings, {errors} of them errors; "
          f"{len(snippets)} snippets")


if __name__ == "__main__":
    main()
