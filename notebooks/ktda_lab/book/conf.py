"""What Sphinx builds the report with. Nothing in the book loads from the network; it opens from a folder."""

project = html_title = "KTDA"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx-mathjax-offline"]
nb_execution_mode = "off"  # the notebooks were executed by the report
nb_ipywidgets_js = {}  # a widget shows its picture
nb_render_markdown_format = "gfm"  # of outputs: tables, but neither directives nor formulas
myst_enable_extensions = ["amsmath", "dollarmath", "html_image"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # of folders, and of notebooks that did not run: their names stay as text
default_role = "py:obj"
add_module_names = False
autodoc_typehints = "description"
napoleon_use_ivar = True
python_maximum_signature_line_length = 70
html_theme = "sphinx_book_theme"
html_theme_options = {"navbar_persistent": [], "footer_content_items": [], "use_download_button": False}
html_copy_source = html_use_index = html_domain_indices = False  # there is a search
html_static_path = ["static"]
html_css_files = ["book.css"]
