"""How the documentation is built; ``make docs`` runs it with warnings as errors."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TQDM_DISABLE", "1")  # what tutorials print is what they found
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

ROOT = Path(__file__).parent.parent

project = "wan-interp"
author = "the wan-interp authors"
copyright = f"2026, {author}"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery"]
suppress_warnings = ["config.cache"]  # a scraper that is a function cannot be pickled, and need not be
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"wan-interp {release}"

default_role = "py:obj"  # `Name` in a docstring links to Name where there is a page for it
myst_enable_extensions = ["colon_fence", "deflist"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
strip_signature_backslash = True  # else a parameter "as_" is shown as "as"


def saved_pictures(block: tuple[str, str, int], variables: dict[str, Any], gallery: dict[str, Any]) -> str:
    """Show the PNG files that a block of a tutorial wrote into its working directory."""
    from sphinx_gallery.scrapers import figure_rst

    folder = Path(variables["src_file"]).parent
    shown = []
    for picture in sorted(folder.glob("*.png")):
        target = Path(next(variables["image_path_iterator"]))
        shutil.move(picture, target)
        shown.append(str(target))
    return figure_rst(shown, gallery["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": ["gallery"],
    "gallery_dirs": ["tutorials"],
    "filename_pattern": r"/plot_",
    "image_scrapers": (saved_pictures,),
    "abort_on_example_error": True,
    "show_memory": False,
    "capture_repr": (),
    "min_reported_time": 600,
    "write_computation_times": False,
    "download_all_examples": False,
}


def keep_first_line(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Have napoleon take "Latents: [channel, frame]" of a property as text, not as a type "Latents"."""
    if what == "property":
        lines[:0] = ["..", ""]  # an empty comment


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)  # before napoleon's 500
