"""Sphinx configuration: ``sphinx-build -n -W -b html docs <output>`` builds without a network."""

from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

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
default_role = "py:obj"
highlight_language = "python"

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
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


def setup(app: Sphinx) -> None:
    """Register the directive of this file."""
    app.add_directive("diagram", Diagram)
