"""Results pages hold text; their tables are views of CSV files in `results/data/`.

    python benchmarks/pages.py              # `make pages` runs it, after a benchmark has written a page or a CSV
    python benchmarks/pages.py --check      # changes nothing; fails where a table and its data differ
    python benchmarks/pages.py --take gmm tables.md    # tables that a benchmark or `study report` printed, as data

A table with a comment in front of it, `<!-- data: data/gmm-1.csv -->`, is written from that file. A table without one
becomes such a file, named after its page. Words live in the page alone: of what a benchmark prints, `--take` keeps the
tables, in their order.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
TABLE = re.compile(r"(?:^<!-- data: (\S+) -->\n)?((?:^\|.*\|[ ]*\n)+)", re.MULTILINE)
CELL = re.compile(r"(?<!\\)\|")


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip().replace(r"\|", "|") for cell in CELL.split(line.strip()[1:-1])]


def as_csv(table: str) -> str:
    """A Markdown table as CSV: its heading and its rows."""
    rows = [cells(line) for line in table.splitlines()]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([rows[0], *rows[2:]])
    return out.getvalue()


def as_table(text: str) -> str:
    """CSV as a Markdown table."""
    head, *rows = csv.reader(io.StringIO(text))
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def written(page: Path) -> tuple[str, dict[Path, str]]:
    """The page with its tables as their files say, and the files of tables that had none."""
    fresh: dict[Path, str] = {}
    taken = {
        page.parent / name for name in re.findall(r"^<!-- data: (\S+) -->$", page.read_text("utf-8"), re.MULTILINE)
    }

    def write(found: re.Match[str]) -> str:
        if found[1]:
            return f"<!-- data: {found[1]} -->\n{as_table((page.parent / found[1]).read_text('utf-8'))}"
        number = 1
        while (place := page.parent / "data" / f"{page.stem}-{number}.csv") in taken | fresh.keys():
            number += 1
        fresh[place] = as_csv(found[2])
        return f"<!-- data: data/{place.name} -->\n{as_table(fresh[place])}"

    return TABLE.sub(write, page.read_text("utf-8")), fresh


def take(name: str, printed: str) -> None:
    """Make the tables of a text the data of a page: the first is `data/NAME-1.csv`."""
    for number, found in enumerate(TABLE.finditer(printed), 1):
        (RESULTS / "data" / f"{name}-{number}.csv").write_text(as_csv(found[2]), "utf-8")


def main(arguments: list[str]) -> int:
    changed = []
    if arguments[:1] == ["--take"]:
        _, name, printed = arguments
        take(name, Path(printed).read_text("utf-8"))
    for page in sorted(RESULTS.glob("*.md")):
        if page.name == "README.md":  # a list of pages, not data
            continue
        text, fresh = written(page)
        if text != page.read_text("utf-8"):
            changed.append(page.name)
        if "--check" not in arguments:
            page.write_text(text, "utf-8")
            for place, content in fresh.items():
                place.parent.mkdir(exist_ok=True)
                place.write_text(content, "utf-8")
    if "--check" in arguments and changed:
        print(f"tables differ from their data in {', '.join(changed)}; run `make pages`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
