"""Running a calibration: missing units of its study go to a runner, and a verdict follows from the stored ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from midguide.studies.calibrate.found import Found, find
from midguide.studies.calibrate.plan import Plan
from midguide.studies.engine.execute import check_device, check_metrics, run_units, units_to_run
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import Unit
from midguide.studies.kinds.base import build_all
from midguide.studies.runners.base import RUNNERS
from midguide.studies.spec.study import parse_study

OnUnit = Callable[[Unit, list[str], float], None]


@contextmanager
def unwatched(total: int) -> Iterator[OnUnit]:
    """A callback for finished units that says nothing."""
    yield lambda unit, failures, seconds: None


def run(
    plan: Plan,
    folder: str | Path,
    *,
    watch: Callable[[int], AbstractContextManager[OnUnit]] = unwatched,
    announce: Callable[[str], None] = lambda path: None,
) -> Found:
    """Run what is missing of a plan, and judge it; repeated after an interrupt it goes on.

    Args:
        plan: what to calibrate.
        folder: of the results.
        watch: given the number of units to run, a context with a callback for each that is finished. A failure is
            handed on once for each sampler and reason.
        announce: is told each Python file that is run.

    Raises:
        MidguideError: If the plan cannot be carried out: an unknown name, a prior that cannot be sampled.
    """
    study = parse_study(plan.plain(), announce=announce)
    check_metrics(study)
    check_device(study, plan.device)
    if not Path(folder).exists():  # a prior that cannot be sampled is one error, and leaves nothing behind
        build_all(plan.kind, [study.units[0].problem_seed])
    store = Store.create(folder, study.plain, [], study.code)
    units = units_to_run(store.progress(study.units), store, rerun_old=True)
    if units:
        with watch(len(units)) as on_unit:
            runner = RUNNERS.make("local", {"workers": plan.workers})
            run_units(study, store, units, runner=runner, device=plan.device, on_unit=_each_reason_once(on_unit))
    return find(plan, study, store)


def _each_reason_once(on_unit: OnUnit) -> OnUnit:
    seen: set[tuple[str, str]] = set()

    def tell(unit: Unit, failures: list[str], seconds: float) -> None:
        new = [reason for reason in failures if (unit.sampler_label, reason) not in seen]
        seen.update((unit.sampler_label, reason) for reason in new)
        on_unit(unit, new, seconds)

    return tell
