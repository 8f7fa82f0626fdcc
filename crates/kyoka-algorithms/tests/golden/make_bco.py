"""Golden cases of BCO (arXiv 2404.04656, equation 12) with reward shift: python3 make_bco.py > bco.json"""
import json
import math
import random

RANDOM = random.Random(7)


def case(name, scale, beta, weights, shift):
    ratios = [round(RANDOM.gauss(0, scale), 5) for _ in range(6)]
    labels = [1, 0, 1, 1, 0, 0]
    losses, gradient = [], []
    for ratio, label in zip(ratios, labels):
        sign, weight = (1, weights[0]) if label else (-1, weights[1])
        x = sign * (beta * ratio - shift)
        # -log sigmoid(x), and its slope, without overflow.
        losses.append(weight * (max(-x, 0) + math.log1p(math.exp(-abs(x)))))
        falling = math.exp(-max(x, 0)) / (math.exp(-max(x, 0)) + math.exp(min(x, 0))) if x >= 0 else 1 / (1 + math.exp(x))
        gradient.append(-weight * sign * beta * falling / len(ratios))
    return {"id": f"{name}/bco", "kind": "bco", "log_ratio": ratios, "label": labels,
            "params": {"beta": beta, "desirable_weight": weights[0], "undesirable_weight": weights[1], "reward_shift": shift},
            "per_example": losses, "loss": sum(losses) / len(losses), "grad_log_ratio": gradient}


print(json.dumps({"about": "log-ratios of single completions in, means out", "cases": [
    case("near", 1.0, 0.3, (1.0, 1.2), 0.0),
    case("shifted", 1.0, 0.1, (0.5, 2.0), 0.17),
    case("extreme", 500.0, 0.3, (1.0, 1.2), -3.0),
]}))
