"""A linter for our prose: pages, docstrings, messages, and what the changelog says of the coming release.

    python benchmarks/prose.py                # counts, and everything that is an error; `make check` runs it
    python benchmarks/prose.py --all [FILE]   # every remark, with its place

Errors: British spelling, phrases that no engineer would say, and entries of `Raises:` that do not start with "If" (or
"Always"). Long sentences (over 25 words) and passive verbs count: their share of all sentences must not rise above
`MOST`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LONGEST = 25
MOST = {"long sentence": 0.015, "passive": 0.1}
"""Largest shares of sentences."""
BRITISH = {
    r"colou?r(?<=colour)\w*": "color",
    r"behaviou?r(?<=behaviour)\w*": "behavior",
    r"neighbour\w*": "neighbor",
    r"favour\w*": "favor",
    r"optimis\w+": "optimiz...",
    r"normalis\w+": "normaliz...",
    r"initialis\w+": "initializ...",
    r"regularis\w+": "regulariz...",
    r"generalis\w+": "generaliz...",
    r"summaris\w+": "summariz...",
    r"organis\w+": "organiz...",
    r"recognis\w+": "recogniz...",
    r"minimis\w+": "minimiz...",
    r"maximis\w+": "maximiz...",
    r"quantis\w+": "quantiz...",
    r"centre[sd]?": "center",
    r"grey": "gray",
    r"licence[sd]?": "license",
    r"modell(?:ed|ing)": "modeled",
    r"labell(?:ed|ing)": "labeled",
    r"analys(?:e|ed|ing)": "analyze",
    r"catalyse\w*": "catalyze",
}
PHRASES = {
    r"made anew": "recreated",
    r"told apart": "distinguishable",
    r"that is none\b": "that is not valid",
    r"as on nothing else": "mostly",
    r"of before\b": "previous",
    r"utili[sz]e\w*": "use",
    r"in order to": "to",
    r"leverag\w+": "use",
    r"(?:very|really|quite) (?:good|nice|simple)": "a figure",
    r"obviously|of course|simply": "(nothing)",
    r"please": "(nothing)",
    r"state[- ]of[- ]the[- ]art": "a figure",
    r"seamless\w*": "(nothing)",
}
PASSIVE = re.compile(
    r"\b(?:is|are|was|were|be|been|being)\s+(?:\w+ly\s+|not\s+)?(\w+(?:ed|own|ven|ken|tten)|made|done|kept|held|read|found|given|left|put|set|told|taken|said)\b(?:\s+by\b)?"
)
NO_VERB = {
    "seed",
    "need",
    "speed",
    "indeed",
    "own",
    "unknown",
    "known",
    "even",
    "seven",
    "red",
    "fixed",
    "tired",
    "unused",
}
CODE = re.compile(
    r"^```.*?^```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|<!--.*?-->|<[^>\n]+>|https?://\S*[\w/]", re.DOTALL | re.MULTILINE
)


class Remark(NamedTuple):
    """One finding: where, by which rule, and the text."""

    place: str
    rule: str
    text: str


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each piece of prose of a file."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        if path.name == "CHANGELOG.md":
            text = text.partition("\n## [Unreleased]")[2].partition("\n## [")[0]
        yield 1, text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (said := ast.get_docstring(node)):
            lines = re.split(r"^(?:Args|Returns|Raises|Example|Attributes):$", said, flags=re.MULTILINE)[0]
            yield getattr(node, "lineno", 1), re.sub(r"^(?: {4}|\S+(?: \S+)* {3}).*$", "", lines, flags=re.MULTILINE)
        elif isinstance(node, ast.Call):
            yield from _messages(node)


def _messages(call: ast.Call) -> Iterator[tuple[int, str]]:
    """The texts of an error, a warning or a note, and of `hint=`, `help=` and `advice=` of any call."""
    said: list[ast.expr] = []
    if re.search(r"(?:Error|Problem|Remark|Warning|\bwarn|\bnote)$", ast.unparse(call.func)):
        said += call.args
    said += [word.value for word in call.keywords if word.arg in {"hint", "help", "advice"}]
    for value in said:
        yield from ((value.lineno, text) for text in _texts(value))


def _texts(node: ast.AST) -> Iterator[str]:
    """The texts of an expression; X stands for what an f-string puts in."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    elif isinstance(node, ast.Constant):
        yield from [node.value] if isinstance(node.value, str) else []
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def raises(path: Path) -> Iterator[Remark]:
    """Entries of `Raises:` that do not say when."""
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if (found := re.match(r" +(?:[A-Z]\w*(?:Error|Problem)|Interrupted|Exception): (.*)", line)) and not re.match(
            "If |Always", found[1]
        ):
            yield Remark(f"{path.relative_to(ROOT).as_posix()}:{number}", "phrase", f"-> If: {found[1]}")


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of each sentence; no tables, headings, code or formulas."""
    text = CODE.sub(lambda found: "X" + "\n" * found[0].count("\n"), text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    paragraph, begins = "", 1
    for number, line in enumerate([*text.split("\n"), ""], 1):
        fresh = re.match(r"\s*(?:[-*]|\d+\.|#+|\||>)\s", line) or not line.strip()
        if fresh:
            yield from _split(paragraph, begins)
            paragraph, begins = "", number
        if not re.match(r"\s*(?:\||#)", line):
            paragraph += line.strip() + " "


def _split(paragraph: str, line: int) -> Iterator[tuple[int, str]]:
    for sentence in re.split(r"(?<=[.!?:;])\s+(?=[A-Z`X*\"(])", paragraph):
        if len(sentence.split()) > 2:
            yield line, sentence.strip(" -*")


def remarks(path: Path) -> tuple[list[Remark], int]:
    """The remarks on a file, and how many sentences it has."""
    found, count = [], 0
    name = path.relative_to(ROOT).as_posix()
    for start, text in prose_of(path):
        for line, sentence in sentences(text):
            count += 1
            place = f"{name}:{start + line - 1}"
            if len(sentence.split()) > LONGEST:
                found.append(Remark(place, "long sentence", sentence))
            if any(verb not in NO_VERB for verb in PASSIVE.findall(sentence)):
                found.append(Remark(place, "passive", sentence))
            for rule, words in (("spelling", BRITISH), ("phrase", PHRASES)):
                for word, better in words.items():
                    if hit := re.search(rf"\b(?:{word})\b", sentence, re.IGNORECASE):
                        found.append(Remark(place, rule, f"{hit[0]} -> {better}: {sentence}"))
    if path.suffix == ".py":
        found += raises(path)
    return found, count


def files() -> list[Path]:
    """All files with prose of ours."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").glob("*.md")]
    made = {"compatibility.md"}
    return sorted(page for page in pages if page.name not in made) + sorted((ROOT / "src").rglob("*.py"))


def main(arguments: list[str]) -> int:
    everything = "--all" in arguments
    chosen = [Path(name).resolve() for name in arguments if name != "--all"] or files()
    found, count = [], 0
    for path in chosen:
        own, sentences_here = remarks(path)
        found, count = found + own, count + sentences_here
    tally = Counter(remark.rule for remark in found)
    shown = [remark for remark in found if everything or remark.rule not in MOST]
    for remark in shown:
        print(f"{remark.place}: {remark.rule}: {remark.text}")
    print(f"prose: {count} sentences; " + ", ".join(f"{tally[rule]} {rule}" for rule in (*MOST, "spelling", "phrase")))
    above = [rule for rule, share in MOST.items() if tally[rule] > share * count and not everything]
    for rule in above:
        print(f"{rule}: {tally[rule] / count:.1%} of sentences, at most {MOST[rule]:.0%}", file=sys.stderr)
    return 1 if above or tally["spelling"] or tally["phrase"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
