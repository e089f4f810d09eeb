"""The site: `make docs` builds it into build/docs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from poisonbench import __version__

project = "poisonbench"
version = release = __version__
copyright = "the authors of poisonbench"

myst_enable_extensions = ["deflist"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "reference_pages",
]
exclude_patterns = ["records", "images"]
myst_heading_anchors = 3
# A fence of a language that highlighting does not know is plain text.
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Names of torch and of private types have no page here.
nitpicky = False

html_theme = "furo"
html_title = "poisonbench"
html_copy_source = False
html_show_sphinx = False
