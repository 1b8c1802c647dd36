"""Which sampler takes which operator and which noise, as a page in Markdown, from what the samplers declare.

python -m midguide.cli.compatibility > docs/compatibility.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from midguide.likelihoods.base import LIKELIHOODS, Likelihood
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.operators.base import OPERATORS, Operator, kind, operator_class
from midguide.operators.matrix import Identity
from midguide.samplers.auto import RULE, Choice
from midguide.samplers.base import REQUIRED, SAMPLERS, Needs, lacking

PAGE = """\
# Which sampler takes which operator

*Written by `make pages` from the `needs` of the samplers; edits are lost. A test compares this page with the code,
another runs every pair of the first two tables, or checks that it is refused with the reason given here.*

Operators by name (`midguide list operators`), samplers with their default settings. `diffpir` takes every operator with
`gradient_step = true`, a step that is known to diverge.

{operators}

The pseudo-inverse of `jpeg` is the identity on decoded images. It is exact with `rounding = "exact"`, replicated chroma
and whole blocks; with the default, opening a portrait again moves it by 4 to 6 of 255 levels (root mean square) at
quality 2, where compression costs 26 to 35, and by less than 2 from quality 10 on.

The pseudo-inverse of `motion-blur` is found by conjugate gradients, which end after 2,000 steps, with a warning. For a
strong blur that is too early: at 64x64, seed 0, `A A^+ A x` is off by 4e-5 of `A x`, and `A^+ A A^+ y` of a random y by
up to a half, in double precision as in single. DDNM meets this at every step, DiffPIR at the noisiest levels; DPS, MGPS
and PGDM, whose systems have the noise in them, do not. `motion-blur-decomposed` has the exact one, and is faster up to
64x64, the largest that it takes: see [network-cost.md](../results/network-cost.md).

A composition is linear if all its parts are, and has no SVD then. Noise by name (`midguide list likelihoods`), for an
operator that the sampler takes:

{noise}

`auto`, the default of `midguide reconstruct` and `demo`, is a rule and no sampler: it takes
every problem, and chooses by the first line that fits ([frontier.md](../results/frontier.md) has the reasons).

{auto}

With a prior of latents the decoder stands before the operator, which makes it nonlinear; samplers that need a prior
of latents see the operator itself.

What the samplers need:

{needs}

What the operators need; anything else is refused in one line:

{signals}
"""


def page() -> str:
    """The page, in Markdown."""
    classes = {name: operator_class(entry) for name, entry in OPERATORS.items()}
    operators = {f"{name} ({kind(operator)})": operator for name, operator in classes.items()}
    noises = {name: entry.thing.likelihood for name, entry in LIKELIHOODS.items()}
    needs = [(name, entry.make().needs) for name, entry in SAMPLERS.items()]
    return PAGE.format(
        auto=_table(["problem", "sampler", "settings", "why"], [_line(choice) for choice in RULE]),
        signals=_table(["operator", "needs"], [[name, entry.facts["needs"]] for name, entry in OPERATORS.items()]),
        operators=_matrix("operator", operators, lambda operator: (operator, GaussianLikelihood)),
        noise=_matrix("noise", noises, lambda noise: (Identity, noise)),
        needs=_table(
            ["sampler", "operator", "noise", "derivative of the network", "prior"],
            [
                [
                    name,
                    REQUIRED[n.operator],
                    REQUIRED[n.likelihood],
                    "yes" if n.gradients else "no",
                    "of latents" if n.autoencoder else "any",
                ]
                for name, n in needs
            ],
        ),
    )


def _matrix(
    corner: str,
    things: Mapping[str, type],
    classes: Callable[[type], tuple[type[Operator], type[Likelihood]]],
) -> str:
    """A table of things by samplers: yes, or what the sampler lacks."""
    needs = {name: entry.make().needs for name, entry in SAMPLERS.items()}

    def cell(need: Needs, thing: type) -> str:
        missing = lacking(need, *classes(thing))
        return f"no, needs {missing}" if missing else "yes"

    rows = [[label, *(cell(need, thing) for need in needs.values())] for label, thing in things.items()]
    return _table([corner, *needs], rows)


def _line(choice: Choice) -> list[str]:
    """A line of the rule of `auto` as cells."""
    settings = ", ".join(f"{key} {value}" for key, value in choice.settings.items()) or "its own"
    return [choice.when, choice.spec, settings, choice.because]


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
