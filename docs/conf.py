"""How `make docs` builds the documentation. Its source is the whole checkout, so that links work as they do there."""

import sys
from pathlib import Path

_DOCS = Path(__file__).parent
sys.path[:0] = [str(_DOCS.parent), str(_DOCS / "extensions")]

from neuron_lib import __version__  # noqa: E402 - the path has to be set before

project = "neuron"
release = __version__
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
    "changes/README.md",
    "examples/README.md",
    "examples/*/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
]
exclude_patterns = [  # folders that need not be searched
    ".*",
    "build",
    "dist",
    "docs/extensions",
    "neuron_lib",
    "neuron_service",
    "requirements",
    "tests",
    "**/__pycache__",
]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "neuron_docs.contents",
    "neuron_docs.generated",
    "neuron_docs.library",
]

nitpicky = True
suppress_warnings = ["toc.not_included"]  # a test looks for pages that the index lacks
nitpick_ignore_regex = [(r"py:.*", r".*")]
default_role = "code"  # docstrings have code between single backticks
myst_heading_anchors = 6  # as on the pages of a code host
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = f"neuron {release}"
html_static_path = ["static"]
html_extra_path = ["root"]  # leads from the root of the site to the index of the pages
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sourcelink = False
