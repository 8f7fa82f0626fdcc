"""Renders TRL's chat templates and the one-liners of expressions.txt with transformers; writes the two tables.

    pip install trl==1.16.0 transformers==5.24.0 jinja2==3.1.6 tokenizers
    python make.py

`cases.json` holds each text once; a date of today stands as its format in double angle brackets.
"""

import json
import warnings
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
TRL = Path(find_spec("trl").origin).parent / "chat_templates"
DATES = ["%Y-%m-%d", "%d %b %Y", "%B %d, %Y"]
TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "image_token": "<image>",
    "boi_token": "<start_of_image>",
}

PLACE = {"type": "string", "description": "e.g. Zürich, \"here\" <or> 'there'"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": PLACE,
                "days": {"type": ["integer", "null"], "default": 0},
                "units": {"type": "string", "enum": ["metric", "imperial"]},
                "at": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["place"],
        },
        "return": {"type": "string", "description": "words"},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}}}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def parts(role, *items):
    known = {"<image>": {"type": "image"}, "<audio>": {"type": "audio"}, "<video>": {"type": "video"}}
    return say(role, [known.get(item, {"type": "text", "text": item}) for item in items])


def call(name, **arguments):
    return {"type": "function", "id": "c1", "function": {"name": name, "arguments": arguments}}


ASK = [say("user", "Hello, who are you?")]
TURNS = [say("system", "  Be kind.\n"), *ASK, say("assistant", " A model.\n"), say("user", "強化 é\t<b>'\"</b> {{ x }}\n")]
TOOLS = [
    say("system", "Use tools."),
    say("user", "Weather in Zürich?"),
    say("assistant", "", tool_calls=[call("weather", place="Zürich", days=2, at={"lat": 47.0}, tags=[], exact=True, of=None)]),
    say("tool", "{\"temp\": 21.5}", name="weather", tool_call_id="c1"),
    say("assistant", "21.5 °C."),
    say("user", "Thanks."),
]
TWO_CALLS = [
    say("user", "Weather and time?"),
    say("assistant", None, reasoning_content="Both.\n", tool_calls=[call("weather", place="Basel"), call("clock")]),
    say("tool", "rain", name="weather"),
    say("tool", "noon", name="clock"),
    say("assistant", "Rain at noon.", reasoning_content=" So it is. "),
]
SEES = [
    parts("system", "You see well."),
    parts("user", "<image>", "What is this?"),
    parts("assistant", "A cat."),
    parts("user", "And: ", "<image>", "<image>", " or that?"),
]
THOUGHT = [
    say("user", "2+2?"),
    say("assistant", "<think>\neasy\n</think>\n\n4"),
    say("user", "3+3?"),
    say("assistant", "6", thinking="\nalso easy\n"),
]
ALWAYS = {"add_generation_prompt": True}
CONVERSATIONS = [
    (ASK, {}),
    (ASK, ALWAYS),
    (ASK, {"add_generation_prompt": True, "enable_thinking": False}),
    (ASK, {"tools": [WEATHER, CLOCK], **ALWAYS}),
    (TURNS, ALWAYS),
    (TURNS, {"tools": []}),
    (TOOLS, {"tools": [WEATHER, CLOCK], **ALWAYS}),
    (TOOLS, {}),
    (TWO_CALLS, {"tools": [CLOCK]}),
    (SEES, ALWAYS),
    ([parts("user", "<image>", "<audio>", "<video>", "What?")], ALWAYS),
    ([parts("user", "only words")], {"add_vision_id": True, **ALWAYS}),
    (THOUGHT, {"enable_thinking": True}),
    (THOUGHT[:3], {"reasoning_effort": "low", **ALWAYS}),
    ([say("user", ""), say("assistant", "")], {}),
    ([*ASK, say("assistant", None), *ASK], ALWAYS),
    ([*ASK, *ASK], ALWAYS),
    ([say("developer", "Be brief."), *ASK], ALWAYS),
    ([say("assistant", "First.")], {}),
    ([say("user", "a", name="Ann")], {"date_string": "01 Jan 2026", "builtin_tools": ["code"], "tools": [CLOCK]}),
]
EXPRESSION_MESSAGES = [
    say("system", "Be kind."),
    say("assistant", "b", tool_calls=[call("weather", place="Zürich", days=2)], name="bot"),
    say("user", None),
    parts("user", "<image>", "Was?"),
]


class Texts:
    """Each text once, by its place."""

    def __init__(self):
        self.all = []
        self.place = {}

    def index(self, text):
        if text not in self.place:
            self.place[text] = len(self.all)
            self.all.append(text)
        return self.place[text]


def rendered(tokenizer, source, messages, options):
    """The text, or None where transformers gives an error."""
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **options)
    except Exception:
        return None
    for form in DATES:
        text = text.replace(datetime.now().strftime(form), f"<<{form}>>")
    return text


def main():
    warnings.simplefilter("ignore")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **TOKENS)
    texts, templates = Texts(), {}
    for path in sorted(TRL.glob("*.jinja")):
        source = path.read_text()
        results = [rendered(tokenizer, source, messages, options) for messages, options in CONVERSATIONS]
        results = [None if text is None else texts.index(text) for text in results]
        templates[path.stem] = {"source": source, "results": results}
    conversations = [{"messages": messages, "options": options} for messages, options in CONVERSATIONS]
    table = {"tokens": TOKENS, "conversations": conversations, "templates": templates, "texts": texts.all}
    (HERE / "trl.json").write_text(json.dumps(table, ensure_ascii=False, indent=0) + "\n")
    lines = (HERE / "expressions.txt").read_text().split("\n")
    lines = [line for line in lines if line and not line.startswith("# ")]
    # A line of expressions is rendered piece by piece, so that one difference hides no other.
    pieces = [piece for line in lines for piece in line.replace("}}|{{", "}}\0{{").split("\0")]
    pieces = [piece.replace("␤", "\n").replace("␍", "\r") for piece in pieces]
    cases = [[piece, rendered(tokenizer, piece, EXPRESSION_MESSAGES, {})] for piece in pieces]
    table = {"tokens": TOKENS, "messages": EXPRESSION_MESSAGES, "cases": cases}
    (HERE / "expressions.json").write_text(json.dumps(table, ensure_ascii=False, indent=0) + "\n")
    print(len(templates), "templates,", len(texts.all), "texts,", len(cases), "one-liners")
    print([line for line, text in cases if text is None])


main()
