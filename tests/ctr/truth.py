#!/usr/bin/python3
"""recallctl ctr against the truth of simulated users, scipy and statsmodels (`make check-ctr`).

What takes many runs is here; tests/integration/test_ctr.py has the rest. All seeds are fixed. The last line is
`N passed, N failed`.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest

from simulate import World, true_ctr

ROOT = Path(__file__).resolve().parents[2]
RECALLCTL = os.environ.get("RECALLCTL_BIN", str(ROOT / "build/release/recallctl"))
RUNS = 400
LIFT = 0.2

passed = failed = 0


def verdict(good, what, detail):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"  {'ok    ' if good else 'FAILED'} {what}: {detail}", flush=True)


def ctr(folder, *args):
    """The only layer of the report; its arms by name."""
    done = subprocess.run([RECALLCTL, "ctr", "--journal", str(folder), "--json", *map(str, args)], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr)
    (layer,) = json.loads(done.stdout)["layers"]
    return {**layer, "arms": {arm["name"]: arm for arm in layer["arms"]}}


def within(truth, interval):
    return interval["low"] <= truth <= interval["high"]


def check_coverage(folder):
    """A known lift, over and over: how often does the interval contain it?"""
    covered = {"difference": 0, "lift": 0, "CTR of the control": 0}
    naive = alarms = 0
    truth = true_ctr(1.0)
    for run in range(RUNS):
        w = World(1000 + run, users=1500, arms=(("control", 0.5, 0.0), ("b", 0.5, LIFT)))
        layer = ctr(w.write(folder))
        a, b = (layer["arms"][name]["figures"]["ctr"] for name in ("control", "b"))
        covered["difference"] += within(LIFT * truth, b["difference"])
        covered["lift"] += within(LIFT, b["lift"])
        covered["CTR of the control"] += within(truth, a)
        half = 1.96 * np.sqrt(sum(f["value"] * (1 - f["value"]) / layer["arms"][name]["exposed"]
                                  for name, f in (("control", a), ("b", b))))
        naive += abs(b["difference"]["value"] - LIFT * truth) <= half
        alarms += layer["sample_ratio"]["mismatch"]
    for what, times in covered.items():
        share = times / RUNS
        bounds = (0.93, 0.97) if what != "CTR of the control" else (0.92, 0.98)
        verdict(bounds[0] <= share <= bounds[1], f"95 % interval of the {what}",
                f"contains the truth in {100 * share:.1f} % of {RUNS} runs")
    print(f"         naive interval of the difference: {100 * naive / RUNS:.1f} %")
    verdict(alarms <= 3, "sample ratio without a loss", f"{alarms} alarms in {RUNS} runs at p < 0.001")


def check_loss(folder):
    trips = 0
    for run in range(20):
        w = World(5000 + run, users=60000, visits=0.05, shown=1, items=1)
        trips += ctr(w.write(folder, keep=w.lose(1, 0.05)))["sample_ratio"]["mismatch"]
    verdict(trips == 20, "5 % of one arm's 30,000 users lost", f"{trips} alarms in 20 runs")


def check_aa(folder):
    """One journal with a real difference, re-assigned: p-values of differences that are none."""
    w = World(77, users=5000, arms=(("control", 0.5, 0.0), ("b", 0.5, LIFT)), visits=3.0)
    w.write(folder)
    aa = ctr(folder, "--aa", 200, "--seed", 7)["aa"]
    test = stats.kstest(aa["p"], "uniform")
    verdict(test.pvalue > 0.01, "200 A/A splits have uniform p-values",
            f"D = {test.statistic:.3f}, p = {test.pvalue:.2f}, {100 * aa['share_significant']:.1f} % below 0.05")
    verdict(abs(aa["uniform_d"] - test.statistic) < 1e-12 and abs(aa["uniform_p"] - test.pvalue) < 0.02,
            "their Kolmogorov-Smirnov test is scipy's", f"p = {aa['uniform_p']:.4f}")
    naive = stats.kstest(aa["naive_p"], "uniform").pvalue
    verdict(naive < 1e-6, "the naive test fails this", f"{100 * aa['naive_share_significant']:.1f} % below 0.05")
    many = ctr(folder, "--aa", 20000, "--seed", 3)["aa"]
    verdict(many["uniform_d"] < 0.0115 and 0.045 < many["share_significant"] < 0.055, "20,000 splits",
            f"D = {many['uniform_d']:.4f}, {100 * many['share_significant']:.2f} % below 0.05")


def clustered_se(w):
    """Of the difference, by ordinary least squares on exposed items with errors clustered by user."""
    user = w.user[w.of]
    arm = (w.arm[user] == 1).astype(float)
    fit = sm.OLS(w.clicked.astype(float), sm.add_constant(arm)).fit(
        cov_type="cluster", cov_kwds={"groups": user, "use_correction": False})
    return fit.params[1], fit.bse[1]


def check_figures(folder):
    w = World(99, users=4000, arms=(("control", 0.5, 0.0), ("b", 0.3, 0.1), ("c", 0.2, 0.3)))
    layer = ctr(w.write(folder))
    arms = layer["arms"]
    sums = dict(zip(("control", "b", "c"), w.sums()))
    clicks, shown = {n: x.sum() for n, (x, _) in sums.items()}, {n: y.sum() for n, (_, y) in sums.items()}
    close = {}
    users = [arms[n]["units"] for n in sums]
    close["scipy.stats.chisquare"] = layer["sample_ratio"]["p"], stats.chisquare(users).pvalue
    for n in ("b", "c"):
        close[f"proportions_ztest of {n}"] = (
            arms[n]["figures"]["ctr"]["naive_p"],
            proportions_ztest([clicks["control"], clicks[n]], [shown["control"], shown[n]])[1])
    p = [arms[n]["figures"]["ctr"]["p"] for n in ("b", "c")]
    for n, adjusted in zip(("b", "c"), multipletests(p, method="holm")[1]):
        close[f"multipletests(holm) of {n}"] = arms[n]["figures"]["ctr"]["p_of_all"], adjusted
    for n in ("b", "c"):
        x0, x1 = sums["control"][0], sums[n][0]
        figure = arms[n]["figures"]["clicks_per_user"]
        z = stats.norm.ppf(0.975)
        se = np.sqrt(x0.var(ddof=1) / len(x0) + x1.var(ddof=1) / len(x1))
        close[f"clicks per user of {n}, scipy's normal"] = figure["p"], 2 * stats.norm.sf(
            abs(x1.mean() - x0.mean()) / se)
        close[f"its interval of {n}"] = figure["difference"]["high"], x1.mean() - x0.mean() + z * se
    for what, (got, wanted) in close.items():
        verdict(abs(got - wanted) <= 1e-9 * abs(wanted), what, f"{got:.9g}, {wanted:.9g}")
    two = World(98, users=4000, arms=(("control", 0.5, 0.0), ("b", 0.5, 0.1)))
    difference, se = clustered_se(two)
    got = ctr(two.write(folder))["arms"]["b"]["figures"]["ctr"]["difference"]
    mine = (got["high"] - got["low"]) / 2 / stats.norm.ppf(0.975)
    verdict(abs(got["value"] - difference) < 1e-9 and abs(mine / se - 1) < 1e-3,
            "OLS with errors clustered by user (statsmodels)", f"{mine:.7f}, {se:.7f}; they differ by n / (n - 1)")


with tempfile.TemporaryDirectory() as temporary:
    for check in (check_figures, check_aa, check_loss, check_coverage):
        check(Path(temporary) / "journal")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
