"""Find and load a model: a bundled name, a diffusers folder, a hub id, or a pipeline object that is already there."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

from interp.errors import ModelError, suggest
from interp.kinds import check_kind

TRAINED_HERE = {"wan-maze-mini": "make train-mini", "wan-puzzle-mini": "make train-puzzle"}


def bundled_models() -> tuple[str, ...]:
    """Names of the models that ship with the package."""
    root = _models_root()
    return tuple(sorted(p.name for p in root.iterdir() if (p / "model_index.json").is_file())) if root.is_dir() else ()


def bundled_folder(name: str) -> Path:
    """Folder of a bundled model.

    Raises:
        ModelError: no model of that name ships with the package.
    """
    if name not in bundled_models():
        raise ModelError(f"no bundled model is called {name!r}; there are: {', '.join(bundled_models()) or 'none'}")
    return _models_root() / name


def _models_root() -> Path:
    return Path(str(importlib.resources.files("interp"))) / "models"


def load_pipeline(source: str | Path, **from_pretrained: Any) -> Any:
    """Load a stock diffusers Wan pipeline.

    Args:
        source: a bundled name, a folder with a ``model_index.json``, or a hub id such as
            "Wan-AI/Wan2.2-I2V-A14B-Diffusers".
        from_pretrained: passed to diffusers as it is (``torch_dtype``, ``revision``, ``variant``, ``device_map`` ...).

    Raises:
        ModelError: nothing of that name exists, or it is not a Wan pipeline this package supports.
    """
    folder = _locate(str(source))
    try:
        from diffusers import DiffusionPipeline

        pipe = DiffusionPipeline.from_pretrained(folder, **from_pretrained)
    except (OSError, ValueError, AttributeError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{source} could not be loaded as a diffusers pipeline: {reason}") from error
    return check_pipeline(pipe)


def _locate(source: str) -> str:
    if source in bundled_models():
        return str(bundled_folder(source))
    if source in TRAINED_HERE:
        raise ModelError(
            f"the weights of {source} are not bundled with this copy of the package; `{TRAINED_HERE[source]}` trains "
            f"them, into a folder build/.../{source} that can be loaded by its path"
        )
    path = Path(source)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ModelError(
                f"{source} is a folder but not a diffusers pipeline: it has no model_index.json; "
                "give the folder that holds it"
            )
        return source
    if path.exists():
        raise ModelError(f"{source} is a file; give the folder of a diffusers pipeline, a hub id or a bundled name")
    parts = source.split("/")
    if len(parts) == 2 and all(parts) and not source.startswith((".", "~")):
        return source
    names = bundled_models()
    raise ModelError(
        f"no model is called {source!r}{suggest(source, names)}: it is neither a bundled model "
        f"({', '.join(names) or 'none'}), nor a folder that exists, nor a hub id of the form owner/name"
    )


def check_pipeline(pipe: Any) -> Any:
    """Return the pipeline if it is supported.

    Raises:
        ModelError: it is another class, or one that is refused by name.
    """
    check_kind(pipe)
    return pipe
