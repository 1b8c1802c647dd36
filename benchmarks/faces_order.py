"""The order of methods on the image tasks beside the order that the paper found, pair by pair.

    midguide study run experiments/faces-cpu.toml --out cpu ...
    python benchmarks/faces_order.py cpu

A pair of methods is told apart where the 95 % interval of its difference, paired by image, leaves out zero. Pairs that
the paper ties and we tell apart are in no column; PSNR and SSIM are better where larger, LPIPS where smaller.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import combinations

from midguide.studies.engine.store import Store
from midguide.studies.report.rows import Difference, make_report
from midguide.studies.spec.study import parse_study

KINDS = {"lpips": -1, "psnr": 1, "ssim": 1}
"""The start of a metric's name, and the sign of what is better."""

COLUMNS = ("in its order", "against it", "not told apart", "pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="results of a study that has expected numbers")
    parser.add_argument("--metric", action="append", help="metrics of ours to compare; all of these kinds by default")
    arguments = parser.parse_args()
    store = Store.open(arguments.out)
    study = parse_study(store.plain)
    first = make_report(study, store)
    paper = {(e.problem, e.sampler, _kind(e.metric)): e.value for e in store.expected}
    differences = {
        (d.problem, d.metric, baseline, d.sampler): d
        for baseline in first.samplers
        for d in make_report(study, store, baseline).differences
    }
    against: list[str] = []
    for metric in arguments.metric or [m for m in first.metrics if _kind(m)]:
        print(f"\n## {metric}\n\n| problem | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
        total: Counter[str] = Counter()
        for problem in first.problems:
            known = [s for s in first.samplers if (problem, s, _kind(metric)) in paper]
            counts: Counter[str] = Counter()
            for one, other in combinations(known, 2):
                pair = differences.get((problem, metric, one, other))
                if pair is None or pair.ci95 is None:
                    continue
                theirs = paper[problem, other, _kind(metric)] - paper[problem, one, _kind(metric)]
                verdict = _verdict(pair, theirs)
                counts.update([verdict, "pairs"])
                if verdict == "against it":
                    better, worse = (other, one) if pair.mean * KINDS[_kind(metric)] > 0 else (one, other)
                    gap = f"{abs(pair.mean):.3f} ± {pair.ci95:.3f} (the paper's: {abs(theirs):.3f})"
                    against.append(f"- {problem}, {metric.partition('[')[0]}: {better} before {worse}, {gap}")
            if counts["pairs"]:
                print(f"| {problem} | {' | '.join(str(counts[c]) for c in COLUMNS)} |")
                total += counts
        print(f"| all | {' | '.join(str(total[c]) for c in COLUMNS)} |")
    print("\nAgainst the paper's order:\n", *against, sep="\n")


def _kind(metric: str) -> str:
    return next((kind for kind in KINDS if metric.startswith(kind)), "")


def _verdict(pair: Difference, theirs: float) -> str:
    """What a paired difference says of a difference of the paper."""
    assert pair.ci95 is not None
    if abs(pair.mean) <= pair.ci95:
        return "not told apart"
    if theirs == 0:
        return "tied by the paper"
    return "in its order" if pair.mean * theirs > 0 else "against it"


if __name__ == "__main__":
    main()
