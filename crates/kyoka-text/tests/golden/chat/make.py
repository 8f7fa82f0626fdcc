"""Renders the conversations with transformers' apply_chat_template; writes cases.json.

    pip install transformers==5.23.0 jinja2 tokenizers
    python make.py
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather at a place: \"now\" or later, in °C.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "e.g. Zürich"},
                "days": {"type": "integer", "default": 0, "minimum": 0},
                "units": {"type": "string", "enum": ["metric", "imperial"]},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {}, "description": "The time."}}


def text(role, content, **more):
    return {"role": role, "content": content, **more}


def parts(role, *items):
    known = {"<image>": {"type": "image"}, "<audio>": {"type": "audio"}}
    return {"role": role, "content": [known.get(item, {"type": "text", "text": item}) for item in items]}


SHORT = [text("user", "Hello, who are you?")]
SYSTEM = [text("system", "  Be kind.\n"), *SHORT, text("assistant", "A model.\n"), text("user", "Tell me\nmore <b>now</b>.")]
CALLS = [
    text("system", "Use tools."),
    text("user", "Weather in Zürich?"),
    text(
        "assistant",
        "",
        tool_calls=[{"type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2}}}],
    ),
    text("tool", "{\"temp\": 21.5}", name="weather"),
    text("assistant", "21.5 °C."),
    text("user", "Thanks, \"and\" Basel?"),
]
TWO_CALLS = [
    text("user", "Weather and time?"),
    text(
        "assistant",
        "Let me see.",
        tool_calls=[
            {"function": {"name": "weather", "arguments": {"place": "Basel", "exact": True, "radius": 1.5, "of": None}}},
            {"name": "clock", "arguments": {}},
        ],
    ),
    text("tool", "rain"),
    text("tool", "noon"),
]
PICTURES = [
    parts("system", "You see well."),
    parts("user", "<image>", "What is this?"),
    parts("assistant", "A cat."),
    parts("user", "And this: ", "<image>", "<image>", " or that?"),
]
SOUNDS = [parts("user", "<audio>", "Who speaks?"), text("assistant", "A child.\n"), parts("user", "<audio>", "Now?")]
THOUGHT = [
    text("user", "2+2?"),
    text("assistant", "<think>\neasy\n</think>\n\n4"),
    text("user", "3+3?"),
    text("assistant", "6", reasoning_content="\nalso easy\n"),
]

CASES = [
    ("chatml_tools", SHORT, {}),
    ("chatml_tools", SYSTEM, {"add_generation_prompt": True}),
    ("chatml_tools", CALLS, {"tools": [WEATHER, CLOCK], "add_generation_prompt": True}),
    ("chatml_tools", TWO_CALLS, {"tools": [CLOCK]}),
    ("llama3_headers", SHORT, {"date_string": "01 Jan 2026", "add_generation_prompt": True}),
    ("llama3_headers", SYSTEM, {"date_string": "01 Jan 2026"}),
    ("llama3_headers", CALLS, {"date_string": "01 Jan 2026", "tools": [WEATHER, CLOCK], "add_generation_prompt": True}),
    ("llama3_headers", CALLS, {"date_string": "01 Jan 2026", "tools": [WEATHER], "tools_in_user_message": False}),
    ("llama3_headers", TWO_CALLS, {"date_string": "01 Jan 2026"}),
    ("llama3_headers", [text("system", "x")], {"date_string": "01 Jan 2026", "tools": [CLOCK]}),
    ("smolvlm", PICTURES, {"add_generation_prompt": True}),
    ("smolvlm", [parts("user", "Only words.")], {}),
    ("smolvlm", [parts("user", "<image>", "<image>", "Compare.")], {"add_generation_prompt": True}),
    ("qwen2_vl", PICTURES, {"add_generation_prompt": True}),
    ("qwen2_vl", PICTURES[1:], {"add_vision_id": True}),
    ("qwen2_vl", SYSTEM, {"add_generation_prompt": True}),
    ("qwen2_audio", SOUNDS, {"add_generation_prompt": True}),
    ("qwen2_audio", SYSTEM, {}),
    ("thinking", THOUGHT, {}),
    ("thinking", THOUGHT[:3], {"add_generation_prompt": True, "enable_thinking": False}),
    ("thinking", [*THOUGHT[:3], text("assistant", "6", thinking="an older name")], {}),
    ("alternating", SYSTEM, {}),
    ("alternating", [*SHORT, *SHORT], {}),
    ("features", SYSTEM, {}),
    ("features", CALLS, {}),
]


def main():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **TOKENS)
    cases = []
    for template, messages, options in CASES:
        case = {"template": template, "messages": messages, "options": options}
        source = (HERE / f"{template}.jinja").read_text()
        try:
            case["text"] = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **options)
        except Exception as error:
            case["error"] = str(error)
        cases.append(case)
    table = {"tokens": TOKENS, "cases": cases}
    (HERE / "cases.json").write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n")
    for case in cases:
        print(case["template"], case.get("error", ""))
    print(cases[-1].get("text"))


main()
