"""What MkDocs does to our pages: pages made from the code, links within the repository, formulas.

Links in pages are those of the repository, so that they work in an editor, too. A link to a file that is a page of the
site leads there. Any other file of the repository is named, without a link. A link to nothing fails the build.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import formulas
import reference_pages

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#]*)(#[^)\s]*)?(\))")
FENCED = re.compile(r"(^```.*?^```|`[^`\n]*`(?!\]))", re.DOTALL | re.MULTILINE)
ALONE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that lie at the top of the repository, and their places in the site."""
OUTSIDE = ("results",)
"""Folders of the repository, besides docs/, that are part of the site under the same name."""
log = logging.getLogger("mkdocs.hooks.midguide")
made: dict[str, str] = {}


def on_config(config):
    """Make the pages from the code, and enter them in the navigation."""
    made.clear()
    made.update(reference_pages.pages())
    listed = str(config.nav)
    for section in config.nav:
        for title, entries in section.items():
            if title == "Guides":  # a new page is a guide, until mkdocs.yml says where it belongs
                entries.extend(page.name for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in listed)
            if title == "Reference":
                entries[1:1] = reference_pages.navigation()
            if title == "Results":
                entries.extend(sorted(_results()))
    return config


def on_files(files, config):
    """Add pages from the code, and files of the repository that lie outside docs/."""
    from mkdocs.structure.files import File

    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    for source, path in ALONE.items():
        files.append(File.generated(config, path, content=(ROOT / source).read_text("utf-8")))
    for folder in OUTSIDE:
        for source in sorted((ROOT / folder).rglob("*")):
            if source.is_file() and source.suffix in {".md", ".png", ".svg", ".html", ".csv"}:
                files.append(File.generated(config, source.relative_to(ROOT).as_posix(), abs_src_path=str(source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links of the repository into links of the site."""
    path = page.file.src_uri
    if path in made:
        return markdown
    source = _source(path)
    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(lambda link: _relinked(link, source, path, files), part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html, page, config, files):
    """Draw formulas."""
    return formulas.drawn(html)


def _results() -> list[str]:
    return [f"results/{page.name}" for page in (ROOT / "results").glob("*.md") if page.name != "README.md"]


def _source(path: str) -> str:
    """The place in the repository of a page of the site."""
    alone = {place: source for source, place in ALONE.items()}
    if path in alone:
        return alone[path]
    return path if path.split("/")[0] in OUTSIDE else f"docs/{path}"


def _relinked(link: re.Match[str], source: str, page: str, files) -> str:
    opening, target, anchor, closing = link[1], link[2], link[3] or "", link[4]
    if not target or re.match(r"[a-z]+:", target):
        return link[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if not (ROOT / place).exists():
        if files.get_file_from_path(posixpath.normpath(posixpath.join(posixpath.dirname(page), target))):
            return link[0]  # a page that is made from the code
        log.warning(f"{source}: no file for the link {target}")
        return link[0]
    of_site = ALONE.get(place, place.removeprefix("docs/"))
    if files.get_file_from_path(of_site) is None:
        text = opening[1:-2]
        return text if text.strip("`") == target.strip("./") else f"{text} (`{place}`)"
    return opening + posixpath.relpath(of_site, posixpath.dirname(page) or ".") + anchor + closing
