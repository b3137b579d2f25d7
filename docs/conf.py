"""How Sphinx builds these pages: `make docs`."""

import os
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx import addnodes
from sphinx.highlighting import lexers

import mmfasternet

project = 'mmfasternet'
release = version = mmfasternet.__version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
# package_index.md is the description on a package index.
exclude_patterns = ['_build', 'package_index.md']
highlight_language = 'none'
lexers['rooms'] = TextLexer()  # the block in architecture.md that a test reads

myst_heading_anchors = 3
nb_execution_mode = 'off'

autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_inherit_docstrings = False
autodoc_member_order = 'bysource'
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = 'furo'
html_show_copyright = False
html_title = f'mmfasternet {release}'
html_static_path = ['_static']
html_css_files = ['wide.css']


def leave_the_pages(app, doctree):
    """Links out of docs/, which work on GitHub: reports become downloads, as other files do, and folders text."""
    place = Path(app.env.doc2path(app.env.docname)).parent
    for node in list(doctree.findall(addnodes.pending_xref)):
        target = place / node['reftarget']
        if target.is_dir():
            node.replace_self(node.children)
        elif node['reftarget'].startswith('/') and (report := target.with_suffix('.md')).is_file():
            node.replace_self(addnodes.download_reference(
                '', '', *node.children, refdoc=app.env.docname, reftarget=os.path.relpath(report, place)))


def setup(app):
    app.connect('doctree-read', leave_the_pages, priority=400)  # before the downloads are collected
