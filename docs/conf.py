"""Sphinx configuration: ``sphinx-build -n -W -b html docs <output>`` builds without a network."""

import json
import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective, SphinxRole

project = "palitra"
author = "the palitra authors"
copyright = "2026, the palitra authors"  # noqa: A001  (the name that Sphinx reads)
version = release = installed_version("palitra")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_inventories", "**/README.md"]
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(palitra(\._\w+)+\.)?_\w+"),  # type variables
    ("py:obj", r".*"),  # what stands in single backquotes is a link where there is one
]
default_role = "py:obj"
highlight_language = "python"

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3

# The names that these pages link to, in a file of the repository: the build needs no network.
intersphinx_mapping = {"python": ("https://docs.python.org/3", "_inventories/python.inv")}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"palitra {release}"
html_static_path = ["_static"]
html_css_files = ["palitra.css"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b6e75",
        "color-brand-content": "#0b6e75",
        "color-brand-visited": "#54508c",
    },
    "dark_css_variables": {
        "color-brand-primary": "#5cc8cf",
        "color-brand-content": "#5cc8cf",
        "color-brand-visited": "#b3aef0",
    },
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


class Diagram(SphinxDirective):
    """An SVG file in the page itself, where it takes the page's colours, light or dark."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Read the file; the content is the caption."""
        name, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(name)
        svg = Path(path).read_text(encoding="utf-8")
        svg = svg[svg.index("<svg") :]
        figure = nodes.container("", nodes.raw("", svg, format="html"), classes=["diagram"])
        self.state.nested_parse(self.content, self.content_offset, figure)
        return [figure]


class Measurements(SphinxDirective):
    """One measured row as a chart and a table, from the files that the benchmarks wrote.

    Without an argument: what each row was to reach, and what it reached.
    """

    optional_arguments = 1
    folder = "/_static/benchmarks"

    def run(self) -> list[nodes.Node]:
        """Take the figures from ``results.json``."""
        name, path = self.env.relfn2path(f"{self.folder}/results.json")
        self.env.note_dependency(name)
        if not Path(path).exists():
            return [nodes.paragraph("", nodes.Text("Not measured for this version yet."))]
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
        return self.row(rows[self.arguments[0]]) if self.arguments else [targets(rows)]

    def row(self, row: dict[str, Any]) -> list[nodes.Node]:
        """The chart, and the entries from the cheapest to the dearest."""
        chart = nodes.image(
            uri=f"{self.folder}/{self.arguments[0]}.svg", alt=row["title"], classes=["chart"]
        )
        known = {"median", "quartiles", "ratio", "samples", "cpu_samples"}
        more = sorted({key for figures in row["entries"].values() for key in figures} - known)
        cells = [["", row["unit"], f"of {row['baseline']}", *more]]
        for entry, figures in sorted(row["entries"].items(), key=lambda item: item[1]["median"]):
            ratio = "" if figures["ratio"] is None else f"{figures['ratio']:.2f}"
            cells.append([entry, number(figures["median"]), ratio])
            cells[-1] += [number(figures[key]) for key in more]
        return [nodes.container("", chart, classes=["diagram"]), table(cells)]


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def targets(rows: dict[str, Any]) -> nodes.table:
    """What was aimed for, row by row, and whether it was met."""
    cells = [["", "aim", "reached", ""]]
    for row in rows.values():
        for target in row["targets"]:
            met = "met" if target["met"] else "missed"
            cells.append([row["title"], target["wanted"], target["reached"], met])
    return table(cells, "targets")


def table(cells: list[list[str]], name: str = "measurements") -> nodes.table:
    """A table whose first line is its head."""
    head, body = nodes.thead(), nodes.tbody()
    for number, line in enumerate(cells):
        columns = [nodes.entry("", nodes.paragraph("", cell)) for cell in line]
        (body if number else head).append(nodes.row("", *columns))
    group = nodes.tgroup(cols=len(cells[0]))
    group += [nodes.colspec(colwidth=1) for _ in cells[0]]
    group += [head, body]
    return nodes.table("", group, classes=[name])


class TestName(SphinxRole):
    """A test, shown as the sentence that its name is, and its file."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Take ``path::test_name`` or ``path::TestGroup::test_name`` apart."""
        path, *group, name = self.text.split("::")
        words = re.sub(r"(?<!^)(?=[A-Z])", " ", "".join(group).removeprefix("Test")).lower()
        sentence = name.removeprefix("test_").replace("_", " ")
        shown = nodes.inline("", "", classes=["test-name"])
        shown += nodes.Text(f"{words}: {sentence}" if words else sentence)
        shown += nodes.Text(" ")
        shown += nodes.inline("", path.removeprefix("tests/"), classes=["test-file"])
        return [shown], []


def repeat_heads(app: Sphinx, doctree: nodes.document) -> None:
    """Put the head of each column into its cells, for phones: the style sheet hides it elsewhere.

    In tables of the class "stacked", and in each cell but the first of a line.
    """
    for found in doctree.findall(nodes.table):
        if "stacked" in found["classes"]:
            [head], [body] = found.findall(nodes.thead), found.findall(nodes.tbody)
            heads = [entry.deepcopy() for entry in head.findall(nodes.entry)]
            for line in body.findall(nodes.row):
                for entry, cell in zip(heads[1:], line.children[1:], strict=True):
                    label = nodes.inline("", "", classes=["cell-head"])
                    for paragraph in entry.deepcopy().findall(nodes.paragraph):
                        label += paragraph.children
                    cell.insert(0, label)


def separate_plurals(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Let docstrings have plurals such as `Future`s, which reStructuredText does not end there."""
    text = re.sub(r"(?<!`)(`[^`\n]+`)(?=[a-z])", r"\1\\ ", "\n".join(lines))
    lines[:] = text.split("\n")


def find_short_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Link `gather` in a docstring to the function or method, wherever the docstring stands."""
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    python = env.domains["py"]
    for prefix in ("palitra.AsyncLoopExecutor.", "palitra."):
        target = prefix + node["reftarget"]
        found = python.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> None:
    """Register what this file defines."""
    app.add_directive("diagram", Diagram)
    app.add_directive("measurements", Measurements)
    app.add_role("test", TestName())
    app.connect("autodoc-process-docstring", separate_plurals)
    app.connect("doctree-read", repeat_heads)
    app.connect("missing-reference", find_short_name)
