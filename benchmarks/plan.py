"""A study of a million images on many workers, simulated with measured times; results/plan.md.

    python benchmarks/plan.py [--seconds 10] [--collect 0.003] [--prepare 0.0003]

`--seconds` of one image with its metrics, `--collect` of the process that writes rows and `--prepare` of that which
reads the study, each for one image. Shards are runs of their own: each reads the whole study and has its share of the
rest.
"""

from __future__ import annotations

import argparse

from midguide.studies.plan.schedule import Batch, Overhead, Schedule, simulate

IMAGES = 1_000_000


def run(images: int, workers: int, given: argparse.Namespace, batch: int) -> Schedule:
    overhead = Overhead(prepare=given.prepare * IMAGES, start=given.start, collect=given.collect)
    return simulate([Batch(batch * given.seconds, batch)] * (images // batch), workers, overhead)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--collect", type=float, default=0.003)
    parser.add_argument("--prepare", type=float, default=0.0003)
    parser.add_argument("--start", type=float, default=4.0)
    given = parser.parse_args()
    print("| shards | workers of each | workers | hours | busy | bound by |\n|---|---|---|---|---|---|")
    for shards, workers in ((1, 1), (1, 8), (1, 64), (1, 1024), (1, 8192), (64, 16), (1024, 1), (1024, 8)):
        made = run(IMAGES // shards, workers, given, 10)
        hours, busy = made.seconds / 3600, 100 * made.busy
        print(f"| {shards} | {workers} | {shards * workers} | {hours:,.1f} | {busy:.0f} % | {made.bottleneck} |")


if __name__ == "__main__":
    main()
