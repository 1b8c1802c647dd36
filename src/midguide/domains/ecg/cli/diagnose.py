"""`midguide ecg diagnose`: what a classifier makes of the draws of a study. No medical device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.study import Set, opened
from midguide.errors import ConfigError

WARNING = (
    "This is not a medical device. What it draws where nothing was measured is plausible, not observed: "
    "do not base a diagnosis or a treatment on it."
)
COLUMNS = ("problem", "class", "sampler", "balanced accuracy", "95 %", "AUC", "n", "positive", "expected")
NUMBERS = ("balanced accuracy", "95 %", "AUC", "n", "positive", "expected")


def diagnose(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of a study's results, with stored draws.")],
    classifier: Annotated[Path, typer.Option(metavar="FILE", help="What `midguide train ecg-diagnoses.toml` wrote.")],
    threshold: Annotated[
        str, typer.Option(metavar="{balanced|f1|NUMBER}", help="How thresholds are chosen on fold 9.")
    ] = "balanced",
    settings: Set = None,
    as_json: options.AsJson = False,
) -> None:
    """Balanced accuracy of each diagnosis, from true windows and from what each sampler drew, with bootstrap intervals.

    The result for a recording is the mean of the classifier's output over its draws. Records with unknown statements do
    not count. "truth" is the classifier on the true window: expect no reconstruction to beat it.
    """
    rule = _rule(threshold)
    output.use_threads(context)
    from midguide.domains.ecg.classifier import load_ecg_classifier
    from midguide.domains.ecg.diagnosis import diagnose as diagnosed

    loaded = load_ecg_classifier(classifier)
    study, store = opened(out, settings)
    rows = diagnosed(study, store, loaded, rule)
    output.note(f"These patients are SIMULATED. {WARNING}" if study.simulated else WARNING)
    known = {(e.problem, e.sampler, e.metric): e for e in store.expected}
    found = [(row, known.get((row.problem, row.sampler, f"balanced_accuracy[class={row.diagnosis}]"))) for row in rows]
    if as_json:
        values = [{**row._asdict(), "expected": None if e is None else e.value} for row, e in found]
        output.print_json({"classifier": loaded.sha256, "threshold": rule, "rows": values})
        return
    cells = []
    for row, expected in found:
        interval = "-" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
        numbers = ["-" if value is None else f"{value:.3f}" for value in (row.balanced_accuracy, row.auc)]
        paper = "-" if expected is None else f"{expected.value:g}"
        line = [row.problem, row.diagnosis, row.sampler, numbers[0], interval, numbers[1]]
        cells.append([*line, str(row.records), str(row.positive), paper])
    output.print_table(COLUMNS, cells, numbers=NUMBERS)
    for source in sorted({expected.source for _, expected in found if expected is not None}):
        output.note(f"expected: {source}")


def _rule(text: str) -> str | float:
    try:
        value = float(text)
    except ValueError:
        return text
    if not 0 < value < 1:
        raise ConfigError(
            f"--threshold must be a probability, got {text}", hint="balanced, f1, or a number such as 0.5"
        )
    return value
