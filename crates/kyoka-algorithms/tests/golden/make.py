"""Makes the golden cases of this folder in float64: python make.py (needs torch; run when made, never in tests).

Every formula is written out here from its paper, one row or token at a time where that is clearer, and gradients come
from torch. Where libraries differ, `params` names the variant. `cargo xtask parity` runs the cases.
"""

import json
import math
import pathlib
import random

import torch

torch.set_default_dtype(torch.float64)
HERE = pathlib.Path(__file__).parent
RANDOM = random.Random(20261)


def write(name, about, cases, **shared):
    text = json.dumps({"about": about, **shared, "cases": cases})
    (HERE / f"{name}.json").write_text(text.replace('}, {"id"', '},\n{"id"') + "\n")


def masked_mean(values, mask):
    return (values * mask).sum() / mask.sum().clamp(min=1)


def normal(rows, columns, scale=1.0, shift=0.0):
    return [[round(RANDOM.gauss(shift, scale), 5) for _ in range(columns)] for _ in range(rows)]


# --------------------------------------------------------------------------- advantages


def mean(values):
    return sum(values) / len(values)


def std(values):
    if len(values) < 2:
        return 0.0
    m = mean(values)
    return math.sqrt(sum((v - m) ** 2 for v in values) / (len(values) - 1))


def grouped(rewards, index, credit):
    out = [0.0] * len(rewards)
    for name in dict.fromkeys(index):
        rows = [i for i, other in enumerate(index) if other == name]
        for row, value in zip(rows, credit([rewards[i] for i in rows], rows)):
            out[row] = value
    return out


def whiten(rows, lens):
    flat = [v for row, n in zip(rows, lens) for v in row[:n]]
    m = mean(flat)
    var = sum((v - m) ** 2 for v in flat) / max(len(flat) - 1, 1)
    return [[(v - m) / math.sqrt(var + 1e-8) if t < n else 0.0 for t, v in enumerate(row)] for row, n in zip(rows, lens)]


def pass_at_k_group(r, k):
    n, right = len(r), sum(v > 0 for v in r)
    m = 1 - math.comb(n - right, k) / math.comb(n, k)
    s = math.sqrt(m * (1 - m))
    if s == 0:
        return [0.0] * n
    wrong = (1 - m - (math.comb(n - right - 1, k - 1) / math.comb(n - 1, k - 1) if right < n else 0)) / s
    return [(1 - m) / s if v > 0 else wrong for v in r]


def advantages():
    def scenario(rewards, index):
        return {"rewards": rewards, "index": index, "lens": [RANDOM.randint(1, 12) for _ in rewards]}

    scenarios = {
        "three_groups": scenario([round(RANDOM.gauss(0.3, 1), 3) for _ in range(15)], [i % 3 for i in range(15)]),
        "flat_group": scenario([0.1] * 4 + [1, 0, 0, 1], ["x"] * 4 + ["y"] * 4),
        "extreme": scenario([1e6, -1e6, 3e-7, 2.0, 1e5, 1e5 + 1, 1e5 + 2, 1e5 - 4], [0] * 4 + [1] * 4),
        "with_singleton": scenario([0.5, 1.5, -1.0, 2.5, 0.75], ["a", "b", "a", "c", "a"]),
    }
    cases = []
    for name, s in scenarios.items():
        r, index, lens = s["rewards"], s["index"], s["lens"]
        width = max(lens)

        def add(algorithm, values, table=False, **params):
            case = {"id": f"{name}/{algorithm}/{len(cases)}", "scenario": name, "algorithm": algorithm, "params": params}
            case["advantages"] = values
            if table:
                case.update(shape="[B,T]", T=width)
            cases.append(case)

        def spread(values):
            return [[v] * n + [0.0] * (width - n) for v, n in zip(values, lens)]

        lone = lambda g, credit: [0.0] if len(g) == 1 else credit(g)
        centred = grouped(r, index, lambda g, _: [v - mean(g) for v in g])
        for eps in (1e-6, 1e-4):
            normed = lambda g, _: lone(g, lambda g: [(v - mean(g)) / (std(g) + eps) if len(set(g)) > 1 else 0.0 for v in g])
            add("grpo", grouped(r, index, normed), eps=eps, ddof=1, singleton="zero")
        add("dr_grpo", centred, singleton="zero")
        loo = lambda g, _: lone(g, lambda g: [v - (sum(g) - v) / (len(g) - 1) for v in g])
        add("rloo", grouped(r, index, loo), singleton="zero")
        add("grpo_batch_std", [v / (std(r) + 1e-4) for v in centred], eps=1e-4, ddof=1)
        add("reinforce", [v - mean(r) for v in r])

        def opo(g, rows):
            baseline = sum(lens[i] * r[i] for i in rows) / sum(lens[i] for i in rows)
            return g if len(g) == 1 else [v - baseline for v in g]

        add("opo", grouped(r, index, opo), singleton="raw")
        alpha = len(r) / max(sum(v != 0 for v in r), 1)
        add("gpg", [alpha * v / 2.0 for v in centred], f_norm=2.0, singleton="zero")
        maxrl = lambda g, _: [(v - mean(g)) / mean(g) if mean(g) > 0 else 0.0 for v in g]
        if name != "extreme":
            add("maxrl", grouped(r, index, maxrl))
        add("reinforce_pp_baseline", whiten(spread(centred), lens), True, singleton="zero")
        for gamma in (1.0, 0.9):
            returns = [[R * gamma ** (n - 1 - t) if t < n else 0.0 for t in range(width)] for R, n in zip(r, lens)]
            add("reinforce_pp", whiten(returns, lens), True, gamma=gamma)
            cases[-1]["returns"] = returns
        baselines = [round(RANDOM.gauss(0, 1), 3) for _ in r]
        add("remax", spread([v - b for v, b in zip(r, baselines)]), True, baselines=baselines)
        if name != "with_singleton":
            for norm in (True, False):

                def best(g, _):
                    second, first = sorted(g)[-2:]
                    lead = (first - second) / (std(g) + 1e-6 if norm else 1)
                    return [lead if i == g.index(first) else 0.0 for i in range(len(g))]

                add("passk_best_minus_second", grouped(r, index, best), norm_by_std=norm, eps=1e-6, ddof=1)
    s = {"rewards": [1, 0, 0, 0, 1, 1] + [0] * 6 + [1] * 6, "index": [0] * 6 + [1] * 6 + [2] * 6, "lens": [3] * 18}
    scenarios["binary"] = s
    for k in (1, 3, 6):
        values = grouped(s["rewards"], s["index"], lambda g, _: pass_at_k_group(g, k))
        cases.append({"id": f"binary/passk/{k}", "scenario": "binary", "algorithm": "passk_analytic",
                      "params": {"k": k}, "advantages": values})
    parts = [[RANDOM.randint(0, 1), round(RANDOM.random(), 3), round(RANDOM.gauss(0, 40), 2)] for _ in range(10)]
    index, lens = [i // 5 for i in range(10)], [RANDOM.randint(1, 8) for _ in range(10)]
    for weights in ([1, 1, 1], [0.5, 2.0, 0.25]):
        columns = [[p[k] for p in parts] for k in range(3)]
        for by_token, eps in ((True, 1e-6), (False, 1e-4)):
            normed = [grouped(c, index, lambda g, _: [(v - mean(g)) / (std(g) + eps) for v in g]) for c in columns]
            summed = [sum(w * n[i] for w, n in zip(weights, normed)) for i in range(10)]
            case = {"id": f"gdpo/{weights}/{by_token}", "algorithm": "gdpo", "component_rewards": parts, "index": index,
                    "lens": lens, "params": {"weights": weights, "eps": eps}}
            if by_token:
                width = max(lens)
                case["params"]["whiten"] = "token-weighted"
                case["advantages"] = whiten([[v] * n + [0.0] * (width - n) for v, n in zip(summed, lens)], lens)
                case.update(shape="[B,T]", T=width)
            else:
                case["params"]["whiten"] = "(A-mean)/(std+1e-4) over sequences"
                case["advantages"] = [(v - mean(summed)) / (std(summed) + 1e-4) for v in summed]
            cases.append(case)
    tries = [(7, 2, 3), (50, 1, 10), (9, 9, 2), (9, 0, 2), (500, 20, 100)]
    chances = [{"n": n, "c": c, "k": k, "value": 1 - math.comb(n - c, k) / math.comb(n, k)} for n, c, k in tries]
    write("advantages", "one advantage a completion, or [B,T] where shape says so", cases, scenarios=scenarios,
          pass_at_k_estimator=chances)


def gae_row(rewards, values, gamma, lam):
    """Written forwards, as the sum of discounted temporal differences."""
    n = len(values)
    delta = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [sum((gamma * lam) ** (u - t) * delta[u] for u in range(t, n)) for t in range(n)]


def gae():
    cases = []
    masks = {
        "ragged": [[1] * n + [0] * (9 - n) for n in (9, 4, 1)],
        "holes": [[1, 0, 0, 1, 1, 0, 1, 0, 0], [0, 1, 1, 0, 1, 1, 1, 1, 1]],
        "empty_row": [[0] * 5, [1] * 5],
    }
    for name, mask in masks.items():
        rewards = [[round(RANDOM.gauss(0, 1), 3) if m and RANDOM.random() < 0.5 else 0.0 for m in row] for row in mask]
        values = normal(len(mask), len(mask[0]))
        kept = [[t for t, m in enumerate(row) if m] for row in mask]

        def run(gamma, lam_of):
            out = [[0.0] * len(row) for row in mask]
            for i, places in enumerate(kept):
                row = gae_row([rewards[i][t] for t in places], [values[i][t] for t in places], gamma, lam_of(len(places)))
                for t, v in zip(places, row):
                    out[i][t] = v
            return out

        def returns(table):
            return [[a + v if m else 0.0 for a, v, m in zip(*rows)] for rows in zip(table, values, mask)]

        base = {"rewards": rewards, "values": values, "mask": mask, "lens": [len(p) for p in kept]}
        for gamma, lam in ((1.0, 1.0), (0.97, 0.8), (1.0, 0.0)):
            table = run(gamma, lambda _: lam)
            flat = [table[i][t] for i, places in enumerate(kept) for t in places]
            m, var = mean(flat), std(flat) ** 2
            white = [[(a - m) / math.sqrt(var + 1e-8) if k else 0.0 for a, k in zip(*rows)] for rows in zip(table, mask)]
            cases.append({"id": f"{name}/gae/{gamma}/{lam}", "kind": "gae", "gamma": gamma, "lam": lam, **base,
                          "advantages": table, "returns": returns(table), "whitened": white})
        cases.append({"id": f"{name}/decoupled", "kind": "decoupled gae", "gamma": 0.99, "lam_policy": 0.9,
                      "lam_critic": 1.0, **base, "advantages": run(0.99, lambda _: 0.9),
                      "returns": returns(run(0.99, lambda _: 1.0))})
        for alpha in (0.05, 0.4):
            lam_of = lambda n: max(0.0, 1 - 1 / (alpha * n)) if n else 0.0
            cases.append({"id": f"{name}/vapo/{alpha}", "kind": "vapo", "alpha": alpha,
                          "lam_policy": [lam_of(len(p)) for p in kept], **base,
                          "advantages": run(1.0, lam_of), "returns": returns(run(1.0, lambda _: 1.0))})
    write("gae", "compare where mask = 1; the value after the last token is 0", cases)


# --------------------------------------------------------------------------- per-token losses


def token_scenarios():
    def scenario(mask, adv, drift=0.4, spread=0.3):
        rows, columns = len(mask), len(mask[0])
        logp = [[-abs(v) - 0.05 for v in row] for row in normal(rows, columns, 1.2, 1.0)]
        shifted = lambda scale: [[round(min(l + RANDOM.gauss(0, scale), -0.001), 6) for l in row] for row in logp]
        return {"logp": logp, "old_logp": shifted(drift), "ref_logp": shifted(spread), "rollout_logp": shifted(drift),
                "adv": adv, "mask": mask}

    ragged = [[1] * n + [0] * (7 - n) for n in (7, 1, 4, 6)]
    scenarios = {
        "ragged": scenario(ragged, [[a] * 7 for a in (1.2, -0.7, 0.3, -1.5)]),
        "token_adv": scenario([[1] * 5, [1, 0, 1, 1, 0]], normal(2, 5)),
        "empty_row": scenario([[1] * 3, [0] * 3, [1, 1, 0]], [[0.5] * 3, [1.0] * 3, [-1.0] * 3]),
        "single_token": scenario([[1]], [[0.9]]),
    }
    garbage = json.loads(json.dumps(scenarios["ragged"]))
    for i, row in enumerate(ragged):
        for t, m in enumerate(row):
            if not m:
                garbage["logp"][i][t], garbage["old_logp"][i][t], garbage["adv"][i][t] = 0.0, -1e5, -1e7
                garbage["ref_logp"][i][t], garbage["rollout_logp"][i][t] = -1e5, -1e5
    scenarios["masked_garbage"] = garbage
    far = [40.0, -40.0, 21.0, -19.0, 3.0, -0.1]
    scenarios["extreme"] = {
        "logp": [[-41.0 + max(d, 0) for d in far]] * 2, "old_logp": [[-41.0 + max(-d, 0) for d in far]] * 2,
        "ref_logp": [[-35.0] * 6] * 2, "rollout_logp": [[-38.0] * 6] * 2,
        "adv": [[1.0] * 6, [-1.0] * 6], "mask": [[1] * 6] * 2}
    return scenarios


def reduce(per_token, mask, mode, const=None):
    filled = mask.sum(1) > 0
    sums, counts = (per_token * mask).sum(1), mask.sum(1).clamp(min=1)
    rows = filled.sum().clamp(min=1)
    return {
        "token-mean": lambda: sums.sum() / mask.sum().clamp(min=1),
        "token-sum": lambda: sums.sum(),
        "seq-mean-token-sum": lambda: sums.sum() / rows,
        "seq-mean-token-mean": lambda: (sums / counts).sum() / rows,
        "seq-mean-token-mean-all-rows": lambda: (sums / counts).sum() / len(mask),
        "seq-mean-token-sum-norm": lambda: sums.sum() / rows / const,
        "dr_grpo": lambda: sums.sum() / (len(mask) * const),
    }[mode]()


def ppo(r, A, low, high, c=None, delta=None):
    free = -(r if delta is None else torch.minimum(r, torch.tensor(delta))) * A
    cut = -torch.clamp(r, 1 - low, 1 + high) * A
    loss = torch.maximum(free, cut)
    return loss if c is None else torch.where(A < 0, torch.minimum(loss, -c * A), loss)


def policy_losses():
    scenarios, cases = token_scenarios(), []
    for name, s in scenarios.items():
        mask = torch.tensor(s["mask"], dtype=torch.float64)
        on = mask > 0

        def add(algorithm, loss, agg, params, const=None, **extra):
            clean = lambda key: torch.where(on, torch.tensor(s[key], dtype=torch.float64), torch.zeros(()))
            logp = clean("logp").requires_grad_()
            log_ratio = logp - clean("old_logp")
            clamp = params.get("log_ratio_clamp")
            bounded = log_ratio if clamp is None else log_ratio.clamp(-clamp, clamp)
            per_token = loss(logp, log_ratio, bounded.exp(), clean("adv"), clean)
            total = reduce(per_token, mask, agg or "seq-mean-token-mean-all-rows", const)
            total.backward()
            grad = torch.where(on, logp.grad, torch.zeros(()))
            cases.append({"id": f"{name}/{algorithm}/{len(cases)}", "scenario": name, "algorithm": algorithm,
                          "params": params, "agg": agg, "agg_const": const, "loss": total.item(),
                          "grad_logp": grad.tolist(), "per_token": (per_token * mask).tolist(), **extra})

        def sequence_mean(x):
            return (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)

        for clamp in (20.0,) if name == "extreme" else (None, 20.0):
            for low, high, c, delta in ((0.2, 0.28, None, None), (0.1, 0.3, 3.0, None), (0.2, 0.2, None, 4.0)):
                kind = "ppo_dual_clip" if c else "ppo_two_sided" if delta else "ppo_clip"
                params = {"clip_low": low, "clip_high": high, "log_ratio_clamp": clamp}
                params.update({"dual_clip_c": c} if c else {}, **({"delta": delta} if delta else {}))
                add(kind, lambda lp, l, r, A, _: ppo(r, A, low, high, c, delta), "token-mean", params)
            add("cispo", lambda lp, l, r, A, _: -r.detach().clamp(0.0, 1.28) * A * lp, "token-mean",
                {"ratio_min": 0.0, "ratio_max": 1.28, "log_ratio_clamp": clamp})

            def sapo(lp, l, r, A, _):
                tau = torch.where(A > 0, 1.0, 1.05)
                return -A * 4 / tau * torch.sigmoid(tau * (r - 1))

            add("sapo", sapo, "seq-mean-token-mean", {"tau_pos": 1.0, "tau_neg": 1.05, "log_ratio_clamp": clamp})

            def dppo(kind, low, high):
                def loss(lp, l, r, A, clean):
                    p, q = lp.detach().exp(), clean("old_logp").exp()
                    if kind == "tv":
                        far = (p - q).abs()
                    else:
                        far = q * (q.log() - p.log()) + (1 - q) * ((1 - q + 1e-8) / (1 - p + 1e-8)).log()
                    beyond = torch.where(A > 0, (p > q) & (far > high), (p < q) & (far > low))
                    return -r.detach().clamp(max=20.0) * A * lp * (~beyond)
                return loss

            if name != "empty_row":
                add("dppo_tv", dppo("tv", 0.02, 0.05), "token-mean",
                    {"tv_low": 0.02, "tv_high": 0.05, "ratio_max": 20.0, "log_ratio_clamp": clamp})
                add("dppo_kl", dppo("kl", 0.01, 0.02), "token-mean",
                    {"kl_low": 0.01, "kl_high": 0.02, "ratio_max": 20.0, "log_ratio_clamp": clamp})
        for low, high in ((3e-4, 4e-4), (0.3, 0.3)):
            params = {"clip_low": low, "clip_high": high}
            add("gspo", lambda lp, l, r, A, _: ppo(sequence_mean(l).exp().expand_as(A), A, low, high),
                "seq-mean-token-mean", params)
            token = lambda lp, l, r, A, _: ppo((lp - lp.detach() + sequence_mean(l).detach()).clamp(max=10).exp(), A, low, high)
            add("gspo_token", token, "seq-mean-token-mean", {**params, "log_ratio_max": 10.0})

        def gmpo(lp, l, r, A, _):
            sign = A.sign()
            bounded = sign * torch.minimum(sign * l, sign * l.clamp(-0.3, 0.5))
            return (-sequence_mean(A) * sequence_mean(bounded).exp()).expand_as(A)

        add("gmpo", gmpo, None, {"log_clip_low": 0.3, "log_clip_high": 0.5})
        add("reinforce", lambda lp, l, r, A, _: -A * lp, "seq-mean-token-sum", {})
        add("gpg", lambda lp, l, r, A, _: -A * lp, "token-mean", {})
        opmd = lambda lp, l, r, A, _: -A * lp + 0.5 * 0.3 * (l * mask).sum(1, keepdim=True) ** 2 / mask.sum(1, keepdim=True).clamp(min=1)
        add("opmd", opmd, "seq-mean-token-sum", {"tau": 0.3})

        def covariance(lp, A):
            return (A - masked_mean(A, mask)) * (lp.detach() - masked_mean(lp.detach(), mask))

        def clip_cov(lp, l, r, A, _):
            free, cut = -r * A, -r.clamp(0.8, 1.2) * A
            cov = covariance(lp, A)
            dropped = (cov > -0.2) & (cov < 1.5) & ~(cut > free) & on
            return torch.where(dropped, torch.zeros(()), torch.maximum(free, cut))

        if name != "extreme":
            add("clip_cov", clip_cov, "token-mean", {"clip_low": 0.2, "clip_high": 0.2, "cov_lb": -0.2, "cov_ub": 1.5})

            def kl_cov(lp, l, r, A, _):
                cov = torch.where(on, covariance(lp, A), torch.tensor(-math.inf)).flatten()
                count = max(1, int(mask.sum().item() * 0.25))
                held = torch.zeros_like(cov, dtype=torch.bool)
                held[cov.topk(count).indices] = True
                return -r * A + torch.where(held.view_as(A), 0.7 * l.abs(), torch.zeros(()))

            add("kl_cov", kl_cov, "token-mean", {"kl_cov_ratio": 0.25, "ppo_kl_coef": 0.7})

            def with_kl(lp, l, r, A, clean):
                d = lp - clean("ref_logp")
                return ppo(r, A, 0.2, 0.2) + 0.1 * ((-d).exp() + d - 1)

            add("ppo_clip_plus_kl", with_kl, "token-mean", {"clip_low": 0.2, "clip_high": 0.2}, kl_beta=0.1,
                kl_kind="k3 unclamped, added per token")
            clean = lambda key: torch.where(on, torch.tensor(s[key], dtype=torch.float64), torch.zeros(()))
            weights = (clean("old_logp") - clean("rollout_logp")).clamp(-20, 20).exp().clamp(max=1.5) * mask
            add("ppo_clip_times_tis", lambda lp, l, r, A, _: ppo(r, A, 0.2, 0.2) * weights, "seq-mean-token-sum-norm",
                {"clip_low": 0.2, "clip_high": 0.2, "tis_cap": 1.5}, const=50.0, weights=weights.tolist())
    write("policy_losses", "loss and d loss / d logp; compare where mask = 1, gradients are 0 elsewhere", cases,
          scenarios=scenarios)
    return scenarios


def aggregation(scenarios):
    cases = []
    for name in ("ragged", "token_adv", "empty_row", "single_token"):
        s = scenarios[name]
        mask = torch.tensor(s["mask"], dtype=torch.float64)
        for mode, const in (("token-mean", None), ("token-sum", None), ("seq-mean-token-sum", None),
                            ("seq-mean-token-mean", None), ("seq-mean-token-mean-all-rows", None),
                            ("seq-mean-token-sum-norm", 30.0), ("dr_grpo", 12.5)):
            logp = torch.tensor(s["logp"]).requires_grad_()
            per_token = ppo((logp - torch.tensor(s["old_logp"])).exp(), torch.tensor(s["adv"]), 0.2, 0.28) * mask
            total = reduce(per_token, mask, mode, const)
            (weights,) = torch.autograd.grad(total, per_token, retain_graph=True)
            total.backward()
            case = {"id": f"{name}/{mode}", "scenario": name, "mode": mode, "const": const,
                    "per_token": per_token.tolist(), "mask": s["mask"], "loss": total.item(),
                    "grad_logp": logp.grad.tolist(), "weights": None}
            if len(mask) > 1:
                bounds = [[i, i + 1] for i in range(len(mask))]
                parts = (weights * per_token).sum(1).tolist()
                case.update(micro_batches=bounds, micro_losses=parts)
            cases.append(case)
    write("aggregation", "PPO with bounds 0.2 and 0.28, reduced; micro-batches of one row", cases, scenarios=scenarios)


def kl(scenarios):
    cases = []
    for name, s in scenarios.items():
        mask = torch.tensor(s["mask"], dtype=torch.float64)
        on = mask > 0
        clean = lambda key: torch.where(on, torch.tensor(s[key], dtype=torch.float64), torch.zeros(()))
        for kind in ("k1", "k2", "k3", "k3_clamped", "abs", "k3_value_k2_grad", "k1_value_k2_grad", "k3_importance_weighted"):
            logp = clean("logp").requires_grad_()
            d = logp - clean("ref_logp")
            k3 = (-d).exp() + d - 1
            if name == "extreme" and kind == "k3_importance_weighted":
                continue
            per_token = {
                "k1": lambda: d,
                "k2": lambda: d**2 / 2,
                "k3": lambda: k3,
                "k3_clamped": lambda: ((-d).clamp(-20, 20).exp() + d - 1).clamp(-10, 10),
                "abs": lambda: d.abs(),
                "k3_value_k2_grad": lambda: k3.detach() + d**2 / 2 - (d**2 / 2).detach(),
                "k1_value_k2_grad": lambda: d.detach() + d**2 / 2 - (d**2 / 2).detach(),
                "k3_importance_weighted": lambda: k3 * (logp - clean("old_logp")).exp(),
            }[kind]()
            total = masked_mean(per_token, mask)
            total.backward()
            cases.append({"id": f"{name}/{kind}", "scenario": name, "kind": kind, "per_token": (per_token * mask).tolist(),
                          "loss": total.item(), "grad_logp": torch.where(on, logp.grad, torch.zeros(())).tolist()})
    write("kl", "estimates with d = logp - ref_logp; loss = token-mean", cases, scenarios=scenarios)


# --------------------------------------------------------------------------- the rest


def is_weights():
    cases = []
    tables = {"near": normal(3, 5, 0.2), "far": normal(2, 4, 1.5), "extreme": [[40.0, -40.0, 2.0], [15.0, 15.0, 15.0]]}
    for name, table in tables.items():
        mask = [[int(t <= 3 - i or t == 0) for t in range(len(row))] for i, row in enumerate(table)]
        kept = [[l for l, m in zip(row, keep) if m] for row, keep in zip(table, mask)]
        exp = lambda l: math.exp(max(-20.0, min(20.0, l)))

        def add(kind, params, rows, key="weights"):
            places = [iter(row) for row in rows]
            values = [[next(places[i]) if m else 0 for m in keep] for i, keep in enumerate(mask)]
            cases.append({"id": f"{name}/{kind}/{len(cases)}", "kind": kind, "params": params, key: values,
                          "log_ratio": table, "mask": mask})

        cap = 1.3
        token = [[min(exp(l), cap) for l in row] for row in kept]
        sequence = [[min(exp(sum(row)), cap)] * len(row) for row in kept]
        add("tis_token", {"cap": cap}, token)
        add("tis_sequence", {"cap": cap}, sequence)
        add("tis_geometric", {"cap": cap}, [[min(exp(sum(row) / len(row)), cap)] * len(row) for row in kept])
        flat = [w for row in token for w in row]
        add("tis_token_batch_normalised", {"cap": cap}, [[w / mean(flat) for w in row] for row in token])
        each = mean([row[0] for row in sequence])
        add("tis_sequence_batch_normalised", {"cap": cap}, [[w / each for w in row] for row in sequence])
        low, high = 0.8, 1.25
        inside = lambda w: low <= w <= high
        add("mis_token", {"low": low, "high": high}, [[exp(l) if inside(exp(l)) else 0 for l in row] for row in kept])
        add("mis_sequence", {"low": low, "high": high},
            [[exp(sum(row)) if inside(exp(sum(row))) else 0] * len(row) for row in kept])
        add("mis_geometric", {"low": low, "high": high},
            [[exp(l) if inside(exp(sum(row) / len(row))) else 0 for l in row] for row in kept])
        clamp = lambda l: max(-20.0, min(20.0, l))
        values = {"k1": lambda l: -clamp(l), "k2": lambda l: clamp(l) ** 2 / 2, "k3": lambda l: exp(l) - clamp(l) - 1}
        for level, pool in (("token", None), ("seq_sum", sum), ("seq_mean", mean), ("seq_max", max)):
            for kind, value in values.items():
                if (level, kind) == ("seq_max", "k1"):
                    continue
                params = {"ratio_low": 0.8, "ratio_high": 1.25} if kind == "k1" else {"max": 0.06}
                good = lambda x: 0.8 <= exp(x) <= 1.25 if kind == "k1" else x <= 0.06
                rows = [[int(good(value(l) if pool is None else pool([value(x) for x in row]))) for l in row] for row in kept]
                add(f"keep_mask:{level}_{kind}", params, rows, "keep")
    write("is_weights", "log_ratio = log pi - log mu; weights are 0 outside the mask", cases)


def value_loss():
    cases = []
    for name, mask in {"ragged": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], "empty_row": [[0, 0], [1, 1]]}.items():
        rows, columns = len(mask), len(mask[0])
        v, old, target = normal(rows, columns), normal(rows, columns), normal(rows, columns)
        m = torch.tensor(mask, dtype=torch.float64)
        for clip in (None, 0.3):
            for agg in ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum"):
                x = torch.tensor(v).requires_grad_()
                o, R = torch.tensor(old), torch.tensor(target)
                loss = (x - R) ** 2
                if clip is not None:
                    loss = torch.maximum(loss, (o + (x - o).clamp(-clip, clip) - R) ** 2)
                total = reduce(0.5 * loss, m, agg)
                total.backward()
                cases.append({"id": f"{name}/{clip}/{agg}", "clip": clip, "agg": agg, "vpred": v, "old_values": old,
                              "returns": target, "mask": mask, "loss": total.item(), "grad_vpred": x.grad.tolist()})
    write("value_loss", "half the squared error, clipped or not", cases)


def preference():
    def pairs(n, scale):
        side = lambda: [round(-abs(RANDOM.gauss(20, scale)), 4) for _ in range(n)]
        lens = lambda: [RANDOM.randint(1, 30) for _ in range(n)]
        return {"chosen_logp": side(), "rejected_logp": side(), "ref_chosen_logp": side(), "ref_rejected_logp": side(),
                "chosen_len": lens(), "rejected_len": lens()}

    inputs, cases = {"near": pairs(6, 5), "extreme": pairs(4, 300)}, []
    inputs["equal"] = {**inputs["near"], "ref_chosen_logp": inputs["near"]["chosen_logp"],
                       "ref_rejected_logp": inputs["near"]["rejected_logp"]}
    right = lambda x: torch.logaddexp(-x, torch.zeros(()))  # -log sigmoid(x)
    for name, s in inputs.items():
        for kind, params in (
            ("dpo_sigmoid", {"beta": 0.2}),
            ("dpo_sigmoid_label_smoothing", {"beta": 0.2, "eps": 0.15}),
            ("dpo_robust", {"beta": 0.2, "eps": 0.15}),
            ("dpo_hinge", {"beta": 0.2}),
            ("dpo_sigmoid_length_normalised", {"beta": 1.5}),
            ("dpo_reference_free", {"beta": 0.05}),
            ("ipo_sum", {"beta": 0.25}),
            ("ipo_length_normalised", {"beta": 0.25}),
            ("simpo", {"beta": 2.5, "gamma": 0.8}),
            ("mpo", {"beta": 0.1, "preference_weight": 0.8, "quality_weight": 0.2, "generation_weight": 1.0,
                     "reward_shift": 0.07}),
        ):
            t = {key: torch.tensor(value, dtype=torch.float64) for key, value in s.items()}
            c, r = t["chosen_logp"].requires_grad_(), t["rejected_logp"].requires_grad_()
            lc, lr = c - t["ref_chosen_logp"], r - t["ref_rejected_logp"]
            h, hn = lc - lr, lc / t["chosen_len"] - lr / t["rejected_len"]
            beta, eps = params["beta"], params.get("eps", 0)
            x = beta * h
            losses = {
                "dpo_sigmoid": lambda: right(x),
                "dpo_sigmoid_label_smoothing": lambda: (1 - eps) * right(x) + eps * right(-x),
                "dpo_robust": lambda: ((1 - eps) * right(x) - eps * right(-x)) / (1 - 2 * eps),
                "dpo_hinge": lambda: torch.relu(1 - x),
                "dpo_sigmoid_length_normalised": lambda: right(beta * hn),
                "dpo_reference_free": lambda: right(beta * (c - r)),
                "ipo_sum": lambda: (h - 1 / (2 * beta)) ** 2,
                "ipo_length_normalised": lambda: (hn - 1 / (2 * beta)) ** 2,
                "simpo": lambda: right(beta * (c / t["chosen_len"] - r / t["rejected_len"]) - params["gamma"]),
                "mpo": lambda: 0.8 * right(x) + 0.2 * (right(beta * lc - 0.07) + right(-(beta * lr - 0.07)))
                - c / t["chosen_len"],
            }[kind]()
            losses.mean().backward()
            cases.append({"id": f"{name}/{kind}", "inputs": name, "kind": kind, "params": params,
                          "per_example": losses.tolist(), "loss": losses.mean().item(),
                          "grad_chosen_logp": c.grad.tolist(), "grad_rejected_logp": r.grad.tolist(),
                          "reward_accuracy": (h > 0).double().mean().item(), "reward_margin_mean": x.mean().item()})
    for name, scale in (("near", 1.0), ("extreme", 500.0)):
        chosen, rejected = normal(1, 5, scale)[0], normal(1, 5, scale)[0]
        margins = [0.3, 0.0, 1.0, 0.5, 0.2]
        for params in ({}, {"margin": True}, {"center_coef": 0.02}):
            c, r = torch.tensor(chosen).requires_grad_(), torch.tensor(rejected).requires_grad_()
            gap = c - r - (torch.tensor(margins) if params.get("margin") else 0)
            loss = (right(gap) + params.get("center_coef", 0) * (c + r) ** 2).mean()
            loss.backward()
            cases.append({"id": f"{name}/bt/{len(cases)}", "kind": "bradley_terry", "params": params, "chosen": chosen,
                          "rejected": rejected, "margins": margins, "loss": loss.item(), "grad_chosen": c.grad.tolist(),
                          "grad_rejected": r.grad.tolist()})
        ratios, label, other = normal(1, 6, scale)[0], [1, 0, 1, 1, 0, 0], normal(1, 4, scale)[0]
        l = torch.tensor(ratios).requires_grad_()
        z0 = max(0.0, mean(other))
        good = torch.tensor(label) > 0
        loss = torch.where(good, 1 - torch.sigmoid(0.3 * (l - z0)), 1.2 * (1 - torch.sigmoid(0.3 * (z0 - l))))
        loss.mean().backward()
        cases.append({"id": f"{name}/kto", "kind": "kto", "log_ratio": ratios, "label": label, "kl_log_ratio": other,
                      "params": {"beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.2}, "z0": z0,
                      "per_example": loss.tolist(), "loss": loss.mean().item(), "grad_log_ratio": l.grad.tolist()})
    write("preference", "sequence log-probabilities in, means out", cases, inputs=inputs)


def entropy():
    cases = []
    for name, scale, mask in (("ragged", 1.5, [[1, 1, 1], [1, 0, 0]]), ("peaked", 60.0, [[1, 1, 1], [1, 1, 0]]),
                              ("empty_row", 1.0, [[0, 0, 0], [1, 1, 1]])):
        logits = [normal(3, 6, scale) for _ in mask]
        m = torch.tensor(mask, dtype=torch.float64)
        for coef, temperature in ((0.02, 1.0), (0.5, 1.6)):
            x = torch.tensor(logits).requires_grad_()
            logs = torch.log_softmax(x / temperature, -1)
            H = -(logs.exp() * logs).sum(-1)
            loss = -coef * masked_mean(H, m)
            loss.backward()
            cases.append({"id": f"{name}/{coef}", "logits": logits, "mask": mask, "temperature": temperature,
                          "coef": coef, "entropy": (H * m).tolist(), "loss": loss.item(), "grad_logits": x.grad.tolist()})
    write("entropy", "loss = -coef * token-mean entropy of softmax(logits / temperature)", cases)


def shaping_rewards():
    cases = []
    for limit, buffer in ((50, 10), (300, 300)):
        for length in (0, limit - buffer, limit - buffer // 2, limit, 3 * limit):
            over = length - (limit - buffer)
            value = 0.0 if over <= 0 else max(-1.0, -over / buffer)
            cases.append({"id": f"overlong/{limit}/{length}", "kind": "dapo_soft_overlong", "length": length,
                          "max_len": limit, "cache": buffer, "value": value})
    for length in (0, 7, 33, 64, 65):
        for correct in (True, False):
            c = math.cos(math.pi * min(length / 64, 1.0))
            value = 0.2 + 0.5 * (0.9 - 0.2) * (1 + c) if correct else -0.4 + 0.5 * (-0.8 + 0.4) * (1 + c)
            cases.append({"id": f"cosine/{length}/{correct}", "kind": "cosine_length", "length": length, "max_len": 64,
                          "correct": correct, "min_value_wrong": -0.8, "max_value_wrong": -0.4,
                          "min_value_correct": 0.2, "max_value_correct": 0.9, "value": value})
    for ids in ([], [3], [1, 2, 3, 1, 2, 3, 1], [RANDOM.randint(0, 3) for _ in range(30)]):
        for n in (1, 2, 5):
            grams = [tuple(ids[i:i + n]) for i in range(len(ids) - n + 1)]
            value = -0.5 * (1 - len(set(grams)) / len(grams)) if grams else 0.0
            cases.append({"id": f"repetition/{len(ids)}/{n}", "kind": "repetition_penalty", "token_ids": ids, "ngram": n,
                          "max_penalty": -0.5, "value": value})
    write("shaping_rewards", "DAPO eq. 13; arXiv 2502.03373 C.1 and C.2", cases)


def sampling():
    cases = []
    logits = [round(RANDOM.gauss(0, 1.5), 4) for _ in range(15)]
    logits[4] = -1e30
    for params in ({}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.7}, {"min_p": 0.2},
                   {"temperature": 1.4, "top_k": 9, "top_p": 0.9, "min_p": 0.05}):
        weights = {i: math.exp((l - max(logits)) / params.get("temperature", 1.0)) for i, l in enumerate(logits)}
        order = sorted(weights, key=weights.get, reverse=True)[: params.get("top_k") or len(logits)]
        total, mass, kept = sum(weights[i] for i in order), 0.0, []
        for i in order:
            if mass < params.get("top_p", 1.0):
                kept.append(i)
            mass += weights[i] / total
        kept = [i for i in kept if weights[i] >= params.get("min_p", 0.0) * weights[kept[0]]]
        total = sum(weights[i] for i in kept)
        cases.append({"id": f"one/{len(cases)}", "logits": logits, "params": params, "support": sorted(kept),
                      "probs": [weights[i] / total if i in kept else 0.0 for i in range(len(logits))],
                      "greedy": max(range(len(logits)), key=logits.__getitem__)})
    write("sampling", "temperature, top-k, top-p, min-p, in this order", cases)


def process_grpo():
    """Step credit; a step is [number, token, value]."""
    rng, cases = random.Random(7), []
    for name, index, flat in (("mixed", [0, 0, 1, 1, 1], False), ("flat_steps", ["a"] * 4, True)):
        lens = [rng.randint(2, 7) for _ in index]
        rewards = [round(rng.gauss(0, 1), 3) for _ in index]
        # The last completion of the first scenario has no step.
        counts = [0 if name == "mixed" and i == len(index) - 1 else rng.randint(1, 4) for i in range(len(index))]
        steps = [[[s, rng.randrange(n), 1.0 if flat else round(rng.random(), 2)] for s in range(c)]
                 for n, c in zip(lens, counts)]
        lone = lambda g: [(v - mean(g)) / (std(g) + 1e-6) if len(set(g)) > 1 else 0.0 for v in g]
        outcome = grouped(rewards, index, lambda g, _: lone(g))
        for form in ("at_step", "to_go"):
            for outcome_weight, step_weight in ((1.0, 1.0), (0.0, 0.7)):
                width = max(lens)
                table = [[outcome_weight * a if t < n else 0.0 for t in range(width)] for a, n in zip(outcome, lens)]
                for group in dict.fromkeys(index):
                    rows = [i for i, other in enumerate(index) if other == group]
                    made = [(i, *step) for i in rows for step in steps[i]]
                    for i, number, token, value in made:
                        like = [v for _, m, _, v in made if form == "to_go" or m == number]
                        spread = std(like) if len(set(like)) > 1 else 0.0
                        centre = mean(like) if len(set(like)) > 1 else like[0]
                        for t in range(0 if form == "to_go" else token, token + 1):
                            table[i][t] += step_weight * (value - centre) / (spread + 1e-6)
                params = {"form": form, "outcome_weight": outcome_weight, "step_weight": step_weight, "eps": 1e-6}
                cases.append({"id": f"{name}/process_grpo/{len(cases)}", "algorithm": "process_grpo", "params": params,
                              "rewards": rewards, "index": index, "lens": lens, "steps": steps, "shape": "[B,T]",
                              "T": width, "advantages": table})
    write("process_grpo", "step verdicts normalised in the group, at the step's token or summed over what is to come", cases)


def full_kl():
    generator, cases = torch.Generator().manual_seed(11), []
    for name, scale in (("typical", 1.0), ("extreme", 40.0), ("equal", 0.0)):
        shape, mask = (3, 4, 6), torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])
        logits = (torch.randn(shape, generator=generator) * 1.5).round(decimals=4).requires_grad_()
        reference = (logits.detach() + scale * torch.randn(shape, generator=generator)).round(decimals=4)
        if scale == 0.0:
            reference = logits.detach().clone()
        logp, ref = logits.log_softmax(-1), reference.log_softmax(-1)
        per_token = (logp.exp() * (logp - ref)).sum(-1) * mask
        loss = per_token.sum() / mask.sum()
        loss.backward()
        cases.append({"id": f"{name}/full_kl", "kind": "full", "logits": logits.tolist(), "ref_logits": reference.tolist(),
                      "mask": mask.tolist(), "per_token": per_token.tolist(), "loss": loss.item(),
                      "grad_logits": logits.grad.tolist()})
    write("full_kl", "KL(p || p_ref) over the vocabulary, a value a token; token-mean over the mask", cases)


def positive_nll():
    generator, cases = torch.Generator().manual_seed(13), []
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    for name, positive in (("some", [1, 0, 1, 1]), ("none", [0, 0, 0, 0]), ("only_empty", [0, 0, 0, 1])):
        logp = (-3 * torch.rand(mask.shape, generator=generator)).round(decimals=5).requires_grad_()
        counted = mask * torch.tensor(positive)[:, None]
        loss = -(logp * counted).sum() / counted.sum().clamp(min=1)
        loss.backward()
        cases.append({"id": f"{name}/positive_nll", "kind": "positive_nll", "logp": logp.tolist(), "mask": mask.tolist(),
                      "positive": positive, "loss": loss.item(), "grad_logp": logp.grad.tolist()})
    write("positive_nll", "mean of -log p over the tokens of positive completions (VAPO, equation 9)", cases)


advantages()
gae()
SCENARIOS = policy_losses()
aggregation(SCENARIOS)
kl(SCENARIOS)
is_weights()
value_loss()
preference()
entropy()
shaping_rewards()
sampling()
process_grpo()
full_kl()
positive_nll()
