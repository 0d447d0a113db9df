"""The documentation, by Sphinx: `make docs` first runs scripts/make_docs.py, which writes docs/generated.

Sphinx, because its search works from a folder on disk, its checks of links are built in, and it is well kept: MkDocs
has had no release for long, its Material theme is only maintained, and its successor Zensical is at its beginning.
"""

import convnext_keras

project = "convnext_keras"
author = "The convnext-keras developers"
release = version = convnext_keras.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["generated/zoo.md", "_build"]
myst_enable_extensions = ["attrs_block"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/docs run them
suppress_warnings = ["myst.header", "ref.python"]  # a name may be public in two modules

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute is described once
napoleon_custom_sections = ["Yields"]
default_role = "code"

html_theme = "furo"
html_title = "convnext_keras"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["accessible.js", "zoo.js"]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b57a4", "color-brand-content": "#0b57a4"},
    "dark_css_variables": {"color-brand-primary": "#7db8f5", "color-brand-content": "#7db8f5"},
}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
