"""Of the site: `make docs` builds it into `docs/_build/html`, and a warning is an error."""

from invad_jax.version import __version__

project = "invad_jax"
author = "the authors of invad_jax"
copyright = "the authors of invad_jax, Apache-2.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "invad_jax"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the outputs in the notebook are of the run that its page names

default_role = "code"  # docstrings write `name` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
