"""Configuration of the documentation site (`make docs`). It uses no CDN and no external fonts."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/covenant-example/covenant"
# Files in the root of the repository that are pages of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
}
INCLUDE = re.compile(r"```\{include\} \.\./(?P<file>[A-Z]+\.md)\n```\n")
# Code, which stays as it is, or the target of a relative link.
LINK = re.compile(
    r"""^\ *(?P<fence>```+)[^\n]*\n.*?^\ *(?P=fence)  # a fenced block
    | `[^`\n]*`                                     # a code span
    | \]\((?P<target>[^)\s:\#]+)(?P<anchor>\#[^)\s]*)?\)""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)

TABLE, ROW, HEADER = (
    re.compile(rf"<{tag}\b[^>]*>(.*?)</{tag}>", re.DOTALL) for tag in ("table", "tr", "th")
)
CELL = re.compile(r"<td\b")

project = "Covenant"
project_copyright = "the Covenant authors"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser"]
nitpicky = True
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4

html_theme = "furo"
html_title = "Covenant"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": f"{REPOSITORY}/",
    "source_branch": "main",
    "source_directory": "docs/",
}

log = logging.getLogger(__name__)


def _read_source(app: Sphinx, page: str, content: list[str]) -> None:
    """Insert included root files, and redirect links that leave `docs/`.

    Links are written as they work on GitHub. In the site, a link to a root file that is a page
    leads to that page, and a link to any other file leads to the repository.
    """
    if included := INCLUDE.fullmatch(content[0]):
        folder, text = ROOT, (ROOT / included["file"]).read_text()
    else:
        folder, text = ROOT / "docs", content[0]
    content[0] = LINK.sub(lambda match: _site_link(match, folder, page), text)


def _site_link(match: re.Match[str], folder: Path, page: str) -> str:
    if match["target"] is None:
        return match[0]
    file, anchor = (folder / match["target"]).resolve(), match["anchor"] or ""
    path = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else ""
    if path in PAGES:
        return f"]({PAGES[path]}{anchor})"
    if path.startswith("docs/"):
        return f"]({path.removeprefix('docs/')}{anchor})"
    if file.suffix in (".png", ".svg"):
        return f"]({os.path.relpath(file, ROOT / 'docs')})"
    if not path or not file.exists():
        log.warning("the link to %s leads nowhere", match["target"], location=page)
    return f"]({REPOSITORY}/blob/main/{path}{anchor})"


def _label_cells(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Give every table cell the header of its column, which `site.css` shows on phones."""
    if "body" in context:
        context["body"] = TABLE.sub(lambda match: _labelled(match[0]), context["body"])


def _labelled(table: str) -> str:
    labels = [re.sub("<[^>]*>", "", header).strip() for header in HEADER.findall(table)]

    def labelled_row(row: re.Match[str]) -> str:
        columns = iter(labels)
        return CELL.sub(lambda _: f'<td data-label="{next(columns, "")}"', row[0])

    return ROW.sub(labelled_row, table)


def setup(app: Sphinx) -> None:
    """Register the handlers."""
    app.connect("source-read", _read_source)
    app.connect("html-page-context", _label_cells)
