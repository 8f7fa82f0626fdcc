"""Writes math_verify.jsonl: the pairs of math-verify's own tests with its verdicts.

    pip install math-verify==0.9.0 antlr4-python3-runtime==4.13.2 pytest
    pip download math-verify==0.9.0 --no-deps --no-binary :all: && tar xzf math_verify-0.9.0.tar.gz
    python make_math_verify.py math_verify-0.9.0/tests > math_verify.jsonl

`human_expected` stands where its own tests say otherwise than it does.
"""

import importlib
import json
import sys

import math_verify
from math_verify import ExprExtractionConfig, LatexExtractionConfig

sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
rows = []


def told(gold, pred, config, match_types=("latex", "expr"), precision=6, strict=True, relations=False):
    """A pair with the verdict on it."""
    targets = {"latex": LatexExtractionConfig(boxed_match_priority=0), "expr": ExprExtractionConfig()}
    try:
        if config == "compare":
            chosen = [targets[name] for name in match_types if name in targets]
            parsed = [math_verify.parse(text, chosen) for text in (gold, pred)]
        else:
            parsed = [math_verify.parse(text) for text in (gold, pred)]
        verdict = math_verify.verify(
            *parsed, float_rounding=precision, strict=strict, allow_set_relation_comp=relations
        )
    except Exception as error:  # A pair it cannot judge says nothing.
        print(f"left out: {error}", file=sys.stderr)
        return
    rows.append(
        {
            "gold": gold, "pred": pred, "config": config, "match_types": list(match_types),
            "precision": precision, "strict": strict, "allow_set_relation_comp": relations,
            "gold_parsed": bool(parsed[0]), "pred_parsed": bool(parsed[1]), "expected": bool(verdict),
        }
    )


MODULES = ["test_all", "test_numina_cases", "test_open_thoughts", "test_yujianll", "test_strict", "test_gamma_func"]
for name in MODULES:
    module = importlib.import_module(name)
    for function in vars(module).values():
        for mark in getattr(function, "pytestmark", []):
            if mark.name != "parametrize":
                continue
            names = [key.strip() for key in mark.args[0].split(",")] if isinstance(mark.args[0], str) else mark.args[0]
            for values in mark.args[1]:
                case = dict(zip(names, values))
                if not isinstance(case.get("gold"), str) or not isinstance(case.get("pred"), str):
                    continue
                count = len(rows)
                told(
                    case["gold"], case["pred"],
                    "compare" if name == "test_all" else "default",
                    case.get("match_types", ("latex", "expr")),
                    case.get("precision", 6), case.get("strict", True), case.get("allow_set_relation_comp", False),
                )
                if len(rows) > count and "expected" in case and bool(case["expected"]) != rows[-1]["expected"]:
                    rows[-1]["human_expected"] = bool(case["expected"])

for number, row in enumerate(rows):
    print(json.dumps({"id": f"math-verify/{number}", **row}, ensure_ascii=False))
