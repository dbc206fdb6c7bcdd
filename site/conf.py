"""How the documentation becomes a site: ``make docs``. The pages are Markdown, and read well without it."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

project = "lmdbresults"
author = "The lmdbresults developers"
release = re.search(r'__version__ = "(.*)"', (ROOT / "lmdbresults" / "__init__.py").read_text()).group(1)
version = release

# The source folder is that of the project, so that links between docs/ and the files beside it are those of the site.
root_doc = "docs/index"
include_patterns = ["CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "docs/*.md", "docs/**/*.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_heading_anchors = 4  # by the rules of GitHub

html_theme = "furo"
html_extra_path = ["index.html"]
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"lmdbresults {release}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {"light_css_variables": {"color-brand-primary": "#00695c", "color-brand-content": "#00695c"}}
html_theme_options["dark_css_variables"] = {"color-brand-primary": "#4db6ac", "color-brand-content": "#4db6ac"}
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False}
python_use_unqualified_type_names = True
default_role = "code"  # `name` in a docstring

# A page of one level below a heading is fine in a page that is read as a file.
suppress_warnings = ["myst.header"]


def add_navigation(app, docname, source):
    """Append the tree of pages to the first one, which as a file would show it as text."""
    if docname == root_doc:
        source[0] += "\n" + (ROOT / "site" / "navigation.md").read_text()


def refuse_foreign_resources(app, error):
    """Refuse a site that loads anything from elsewhere."""
    foreign = re.compile(r'<(?:script|img|iframe)[^>]* src="https?:[^"]*"|<link[^>]*rel="stylesheet"[^>]*href="https?:')
    for page in Path(app.outdir).rglob("*.html") if error is None else ():
        found = foreign.search(page.read_text())
        if found is not None:
            raise RuntimeError(f"{page} loads a resource from elsewhere: {found[0]}")


def setup(app):
    """Connect the two functions."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", refuse_foreign_resources)
