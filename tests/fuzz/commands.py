"""Campaigns over command lines: options, settings, paths and names as nobody means them."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path

import valid
from damage import ODD, damaged_bytes
from pool import Campaign, Run, Spoiled

COMMANDS: dict[str, Campaign] = {}

LINES = {
    "reconstruct": "reconstruct x.png --operator box-inpainting --prior p.safetensors --samples 1 --steps 2 "
    "--sigma 0.05 --sampler dps --seed 0 --chunk 1 --out out --crop 0,0,16,16 --set guidance=0.5",
    "sample": "sample --prior p.safetensors --samples 1 --steps 2 --seed 0 --out out",
    "list": "list samplers --json",
    "ecg": "ecg reconstruct r.hea --observed I,II --prior ecg-256 --samples 1 --steps 1 --start 0 --out out",
    "train": "train r.toml --data images --out out --set steps=1 --check",
    "study": "study plan s.toml --set samples=2",
    "check": "check operator identity",
}


def _command(name: str) -> Campaign:
    def campaign(rng: random.Random, folder: Path) -> Run:
        _inputs(rng, folder)
        words = LINES[name].split()
        for _ in range(rng.randint(1, 2)):
            place = rng.randrange(1, len(words))
            match rng.randrange(5):
                case 0:
                    words.pop(place) if len(words) > 2 else None
                case 1:
                    words.insert(place, rng.choice(words))
                case 2 if "=" in words[place]:
                    words[place] = words[place].partition("=")[0] + "=" + rng.choice(ODD)
                case _:
                    words[place] = rng.choice(
                        [*ODD, ".", "..", "/", "/dev/null", "x.png", "--help", "out/x", "-5", "1e9"]
                    )
        return lambda: _run([word.replace("\0", "") for word in words])

    return campaign


def _inputs(rng: random.Random, folder: Path) -> None:
    """The files that the lines name; a few are damaged."""
    files = {"x.png": valid.images()["png"], "p.safetensors": valid.prior(), "r.toml": valid.RECIPE.encode()}
    files |= {"s.toml": valid.STUDY.encode(), **valid.recording()}
    files |= {f"images/{number}.png": valid.images()["png"] for number in range(2)}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(damaged_bytes(rng, content) if rng.random() < 0.03 else content)


def _run(words: list[str]) -> None:
    """Run a command line; it must end well, or with one line, a hint and nothing on stdout.

    Raises:
        MidguideError: If it refused, as it should.
        Spoiled: If it said something else.
    """
    from midguide.cli import main
    from midguide.errors import MidguideError

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    lines = [line for line in err.getvalue().splitlines() if line.startswith(("error: ", "hint: "))]
    if code == 2:
        if [line.split(":")[0] for line in lines] != ["error", "hint"]:
            raise Spoiled(f"{words} says {err.getvalue()[-300:]!r}")
        raise MidguideError(lines[0])
    if code != 0:
        raise Spoiled(f"{words} ends with {code}: {err.getvalue()[-300:]!r}")


for _name in LINES:
    COMMANDS[f"command-{_name}"] = _command(_name)
