#!/usr/bin/env python3
"""Writes the golden files of the chat template tests, with Jinja2 as the oracle.

  make_chat_golden.py SOURCES.json OUT.json

SOURCES has {"conversations": {NAME: {"messages": […], "tools": […], …}},
"templates": {NAME: {"source": "…" or ["line", …], "conversations": [NAME, …] or absent for all}}, "snippets": ["…"]}.
Templates run in the environment that transformers' apply_chat_template makes, with a fixed clock. OUT lists
{"template", "source", "input", "expected"} with "error" in the place of "expected" where rendering fails.

Needs: pip install jinja2.
"""

import datetime
import json
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

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

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW_UNIX_S).strftime(form)
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


def main():
    sources = json.load(open(sys.argv[1], encoding="utf-8"))
    environment = make_environment()
    cases = []
    for name, template in sources["templates"].items():
        source = template["source"]
        source = "\n".join(source) if isinstance(source, list) else source
        for chat in template.get("conversations", sources["conversations"]):
            data = sources["conversations"][chat]
            cases.append({"template": f"{name}/{chat}", "source": source, "input": data,
                          **render(environment, source, data)})
    data = sources["conversations"]["tools"]
    for i, source in enumerate(sources["snippets"]):
        cases.append({"template": f"snippet{i}", "source": source, "input": data, **render(environment, source, data)})
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]\n")
    errors = [case["template"] for case in cases if "error" in case]
    print(f"{sys.argv[2]}: {len(cases)} cases, {len(errors)} of them errors: {errors}")


if __name__ == "__main__":
    main()
