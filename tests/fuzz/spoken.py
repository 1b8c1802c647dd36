"""Campaigns over what people write: study files, settings, schedules, names, command lines."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import valid
from campaigns import campaign, write
from damage import ODD, damaged_bytes, damaged_text, in_tree, in_words, put
from pool import Campaign, Run, Spoiled

from midguide import make_operator, make_sampler
from midguide.catalogue.settings import parse_override
from midguide.cli import main
from midguide.cli.output import file_name
from midguide.diffusion.schedules import make_schedule
from midguide.errors import MidguideError
from midguide.studies.spec.plain import check_label
from midguide.studies.spec.study import load_study
from midguide.training.base import load_recipe
from midguide.web.play import Asked


@campaign
def studies(rng: random.Random) -> Run:
    put(rng, Path("s.toml"), damaged_text(rng, valid.STUDY.encode()))
    return lambda: load_study("s.toml")


@campaign
def schedules(rng: random.Random) -> Run:
    known = ["vp-linear:0.1,0.2,1000", "vp-cosine", "vp-cosine:400", "vp-betas:0.1,0.2", "edm:0.002,80", "flow"]
    name, steps = in_words(rng, rng.choice(known), 2), rng.choice([1, 10, 10**12])
    return lambda: make_schedule(name).times(steps)


@campaign
def overrides(rng: random.Random) -> Run:
    """Settings of samplers and operators."""
    sampler = rng.choice(["mgps", "dps", "ddrm", "red-diff", "pgdm", "daps", "tds", "fps", "mmps", "snips"])
    keys = ["steps", "midpoint", "guidance", "gradient_steps", "optimizer.rate", "particles", "x", "warm_start"]
    text = in_words(rng, f"{rng.choice(keys)}={rng.choice(ODD)}", 1)
    operator = rng.choice(["box-inpainting", "gaussian-blur", "super-resolution", "motion-blur", "jpeg", "radon"])
    own = in_tree(rng, {rng.choice(["std", "box", "factor", "size", "quality", "angles"]): 3, "seed": 0}, 1)

    def made() -> None:
        key, value = parse_override(text)
        make_sampler(sampler, {key: value})

    return rng.choice([made, lambda: make_operator(operator, (3, 16, 16), **own)])


@campaign
def pages(rng: random.Random) -> Run:
    """What a page of `midguide play` asks for."""
    asked = {"picture": 0, "mask": "", "operator": "box", "sigma": 0.05, "sampler": "auto", "steps": 5, "seed": 0}
    body = json.loads(json.dumps(in_tree(rng, asked)))

    def begin() -> None:
        with contextlib.suppress(TypeError):  # an unknown field, which the page says
            Asked(**body)

    return begin


@campaign
def names(rng: random.Random) -> Run:
    """Names and labels that become those of folders and files."""
    name = in_words(rng, "".join(rng.choices([*ODD, "a", "faces-64", "\u732b", ".", "/"], k=rng.randint(1, 3))), 1)
    text = valid.RECIPE.replace('"small"', json.dumps(name))
    Path("r.toml").write_text(text, encoding="utf-8", errors="surrogatepass")

    def recipe() -> None:
        made = load_recipe("r.toml").name
        if not made.strip() or "/" in made or made.startswith("."):
            raise Spoiled(f"the name {made!r} was taken")

    def label() -> None:
        made = file_name(check_label(name))
        if not made.strip() or "/" in made or made.startswith(".") or len(made.encode()) > 255:
            raise Spoiled(f"the label {name!r} became {made!r}")

    return rng.choice([recipe, label])


LINES = {
    "reconstruct": "reconstruct x.png --operator box-inpainting --prior p.safetensors --samples 1 --steps 2 "
    "--sigma 0.05 --sampler dps --seed 0 --chunk 1 --out out --crop 0,0,16,16 --set guidance=0.5",
    "sample": "sample --prior p.safetensors --samples 1 --steps 2 --seed 0 --out out",
    "list": "list samplers --json",
    "ecg": "ecg reconstruct r.hea --observed I,II --prior ecg-256 --samples 1 --steps 1 --start 0 --out out",
    "train": "train r.toml --data images --out out --set steps=1 --check",
    "study": "study plan s.toml --set samples=2",
    "check": "check operator identity",
    "view": "view out --json",
}
OTHER = [*ODD, ".", "..", "/", "/dev/null", "x.png", "--help", "out/x", "-5", "1e9"]


def _command(name: str) -> Campaign:
    def command(rng: random.Random) -> Run:
        _inputs(rng)
        words = LINES[name].split()
        for _ in range(rng.randint(1, 2)):
            place = rng.randrange(1, len(words))
            match rng.randrange(5):
                case 0 if len(words) > 2:
                    words.pop(place)
                case 1:
                    words.insert(place, rng.choice(words))
                case 2 if "=" in words[place]:
                    words[place] = words[place].partition("=")[0] + "=" + rng.choice(ODD)
                case _:
                    words[place] = rng.choice(OTHER)
        return lambda: run_line([word.replace("\0", "") for word in words])

    command.__name__ = f"command-{name}"
    return command


def _inputs(rng: random.Random) -> None:
    """The files that the lines name; a few are damaged."""
    files = {"x.png": valid.PNG, "p.safetensors": valid.of("priors")[1]["p.safetensors"]}
    files |= {**valid.of("records")[0], **valid.of("texts")[0], "images/0.png": valid.PNG, "images/1.png": valid.PNG}
    for name, content in files.items():
        write(Path(name), damaged_bytes(rng, content) if rng.random() < 0.03 else content)


def run_line(words: list[str]) -> None:
    """Run a command line; it must end well, or with one line, a hint and nothing on stdout.

    Raises:
        MidguideError: If it refused, as it should.
        Spoiled: If it said something else.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    lines = [line for line in err.getvalue().splitlines() if line.startswith(("error: ", "hint: "))]
    if code == 2:
        if [line.split(":")[0] for line in lines] != ["error", "hint"] or out.getvalue():
            raise Spoiled(f"{words} says {err.getvalue()[-300:]!r} and {out.getvalue()[:100]!r}")
        raise MidguideError(lines[0])
    if code != 0:
        raise Spoiled(f"{words} ends with {code}: {err.getvalue()[-300:]!r}")


for _name in LINES:
    campaign(_command(_name))
