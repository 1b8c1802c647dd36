"""What our pages tell readers to type, run as it stands: a page is one session in one folder.

    python docs/hooks/snippets.py docs/tutorials/first-posterior.md     # runs a page in full, and keeps its pictures

A block in `python`, `bash` or `toml`, or in no language, is run; one in `text` is output or a sketch. Comments in front
of a block, which no reader sees, say how:

    <!-- file: own.py -->              the block is that file in the reader's folder; Python is not run then
    <!-- small: n=8 -> n=2; a -> b --> what tests replace, so that the page runs in seconds; all else stays
    <!-- small: parsed -->             a command of hours, or for other hardware: the program reads it, and stops there
    <!-- given: image.png -->          files that a reader brings along; `give` makes them

Tests run one process: `--workers N` is `--workers 1` there. Commands of results pages took hours: tests read them only.

Of shell commands, `midguide` and `python FILE` run. Those of the installation (`make`, `pip`, `git`, `cd`) are run by
`make dist`; here what they name has to exist.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
import tomllib
import types
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARSED = "parsed"
BLOCK = re.compile(r"((?:^<!--(?:(?!-->).)*-->\n)*)^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NOTE = re.compile(r"<!-- (\w+): (.*?) -->", re.DOTALL)
RUN, FILES = {"python", "py", "bash", "sh", ""}, {"toml", "json"}
INSTALLS = {"make", "pip", "git", "cd", ".venv/bin/pre-commit", ".venv/bin/python", "torchrun"}


@dataclass(frozen=True)
class Snippet:
    """A block of a page.

    Args:
        page: where it stands, and `line` where it begins.
        language: as the page says it.
        text: the block.
        notes: what comments in front of it say, by their word.
    """

    page: str
    line: int
    language: str
    text: str
    notes: dict[str, str] = field(default_factory=dict)

    def smaller(self) -> str:
        """The text as tests run it.

        Raises:
            ValueError: If the block does not have what its comment replaces.
        """
        text = self.text
        for pair in filter(None, re.split(r";\s+", self.notes.get("small", ""))):
            if pair == PARSED:
                continue  # the text stays, and is only read
            old, _, new = pair.partition(" -> ")
            if old not in text:
                raise ValueError(f"{self.page}:{self.line}: no {old!r} to make smaller")
            text = text.replace(old, new)
        return re.sub(r"--workers \d+", "--workers 1", text)

    @property
    def only_read(self) -> bool:
        """Whether tests read its commands without running them."""
        return PARSED in self.notes.get("small", "") or self.page.startswith("results/")


def snippets(page: Path) -> list[Snippet]:
    """The blocks of a page, in their order."""
    text = page.read_text("utf-8")
    name = page.relative_to(ROOT).as_posix()
    return [
        Snippet(name, text.count("\n", 0, found.start(2)) + 1, found[2], found[3], dict(NOTE.findall(found[1])))
        for found in BLOCK.finditer(text)
    ]


def run(page: Path, folder: Path, *, small: bool = True) -> None:
    """Run a page in a folder, which must be the current one.

    Raises:
        Exception: What a block raises, with its place in a note.
    """
    module = sys.modules["page"] = types.ModuleType("page")  # classes of a page find their module
    names = vars(module)
    for snippet in snippets(page):
        text = snippet.smaller() if small else snippet.text
        try:
            _run(snippet, text, names, folder, small)
        except BaseException as error:
            error.add_note(f"{snippet.page}:{snippet.line}")
            raise


def _run(snippet: Snippet, text: str, names: dict[str, object], folder: Path, small: bool) -> None:
    for given in filter(None, re.split(r",\s*", snippet.notes.get("given", ""))):
        give(given, folder)
    if place := snippet.notes.get("file"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, "utf-8")
    elif snippet.language in {"python", "py"}:
        exec(compile(text, f"{snippet.page}:{snippet.line}", "exec"), names)
    elif snippet.language == "toml":
        tomllib.loads(text)
    elif snippet.language in RUN:
        for command in commands(text):
            shell(command, only_parse=small and snippet.only_read)
    elif snippet.language != "text":
        raise ValueError(f"no rule for a block in {snippet.language!r}")


def commands(text: str) -> list[list[str]]:
    """The commands of a block, as words; comments go, lines that end in a backslash go on."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    found: list[list[str]] = []
    for line in filter(None, words):
        found.append([])
        for word in line:
            if word == "&&":
                found.append([])
            else:
                found[-1].append(word)
    return found


def shell(words: list[str], *, only_parse: bool = False) -> None:
    """Run a command, in this process.

    Raises:
        RuntimeError: If its exit code is another one, or pages may not have the command.
    """
    program, *arguments = words
    target = Path(arguments[arguments.index(">") + 1]) if ">" in arguments else None
    arguments = arguments[: arguments.index(">")] if ">" in arguments else arguments
    if program in INSTALLS:
        _check_installation(program, arguments)
        return
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if program == "midguide":
            code = _parse(arguments) if only_parse else _midguide(arguments)
        elif program == "python" and not arguments[0].startswith("-"):
            code = 0 if only_parse and _find(arguments[0]) else _python(arguments)
        else:
            raise RuntimeError(f"no page may have the command {program!r}")
    if code:
        raise RuntimeError(f"exit code {code}: {' '.join(words)}")
    if target:
        target.write_text(out.getvalue(), "utf-8")
    else:
        sys.stdout.write(out.getvalue())


def _midguide(arguments: list[str]) -> int:
    from midguide.cli import main

    return main(arguments)


def _parse(arguments: list[str]) -> int:
    """Read a command line as the program does, down to the last subcommand, without running it."""
    import typer

    from midguide.cli.app import build

    command = typer.main.get_command(build())
    context, rest = None, arguments
    while True:
        context = command.make_context(rest[0] if rest else "midguide", list(rest), parent=context)
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if not rest or not hasattr(command, "commands"):
            return 0
        _, command, rest = command.resolve_command(context, rest)


def _python(arguments: list[str]) -> int:
    before, sys.argv = sys.argv, [str(_find(arguments[0])), *arguments[1:]]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv = before
    return 0


def _find(script: str) -> Path:
    place = Path(script) if Path(script).exists() else ROOT / script
    if not place.exists():
        raise RuntimeError(f"no file {script}")
    return place


def _check_installation(program: str, arguments: list[str]) -> None:
    if program == "make":
        known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        unknown = [word for word in arguments if "=" not in word and word not in known]
        if unknown:
            raise RuntimeError(f"no target {unknown[0]!r} in the Makefile")
    if program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        asked = [name for word in arguments for group in re.findall(r"\[([\w,]+)\]", word) for name in group.split(",")]
        if unknown := [name for name in asked if name not in extras]:
            raise RuntimeError(f"no extra {unknown[0]!r}")


def give(name: str, folder: Path) -> None:
    """Make a file that readers bring along, as small as will do: pictures of glyphs or of a face, a folder, a copy."""
    place = folder / name
    if place.exists():
        return
    if (ROOT / name).exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, place)
    elif name.endswith(".png"):
        _picture(place, 0)
    elif name == "folder":
        _pictures(place)
    elif name.endswith(".zip"):
        images = folder / f"{name}-images"
        _pictures(images)
        shutil.make_archive(str(place.with_suffix("")), "zip", images)
        shutil.rmtree(images)
    elif name.endswith((".csv", ".npy", ".hea")):
        _recording(place)
    else:
        raise ValueError(f"no rule to make {name}")


def _recording(place: Path) -> None:
    """Twelve leads of a simulated heart: 500 samples per second, microvolts; WFDB in millivolts."""
    from dataclasses import replace

    import numpy as np

    from midguide.domains.ecg.files import write_csv, write_wfdb
    from midguide.domains.ecg.simulator import simulate

    recording = simulate(0, rate_hz=500.0)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".hea":
        write_wfdb(place.parent, place.stem, recording)
    elif place.suffix == ".npy":
        np.save(place, recording.signal.numpy())
    else:
        write_csv(place, replace(recording, signal=1000 * recording.signal))


def _pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(12):
        _picture(folder / f"{number}.png", number, 64 if folder.name != "folder" else 16)


def _picture(place: Path, number: int, size: int = 64) -> None:
    from PIL import Image

    from midguide.data.examples import portrait

    pixels = ((portrait(size)[0].roll(number, -1) + 1) * 127.5).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(place)


def main(pages: list[str]) -> None:
    """Run pages in full, and keep the pictures that they have among those of the documentation."""
    for name in pages:
        page = Path(name).resolve()
        wanted = re.findall(r"!\[[^\]]*\]\(\.\./images/tutorials/([\w.-]+)\)", page.read_text("utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            run(page, Path(folder), small=False)
            for picture in wanted:
                target = ROOT / "docs" / "images" / "tutorials" / picture
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(folder) / picture, target)
            os.chdir(ROOT)
        print(f"{name}: {len(wanted)} pictures")


if __name__ == "__main__":
    main(sys.argv[1:])
