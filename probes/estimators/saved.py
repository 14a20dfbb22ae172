"""What all probes share: a folder to be kept in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from probes.errors import ProbeError, undamaged

FORMAT = 1
PAIRS = "pairs"


class Saved(BaseEstimator):
    """``save`` and ``load`` as ``config.json`` and ``probe.safetensors``."""

    def save(self, folder: str | Path) -> Path:
        """Write parameters (JSON) and fitted arrays (safetensors) into a folder.

        Raises:
            ProbeError: a parameter that JSON cannot hold.
        """
        from safetensors.numpy import save_file

        check_is_fitted(self)
        arrays = {k: np.ascontiguousarray(v) for k, v in self._arrays().items() if v.dtype.kind in "biuf"}
        texts = {k: v.tolist() for k, v in self._arrays().items() if v.dtype.kind not in "biuf"}
        params = {name: _plain(name, value) for name, value in self.get_params().items()}
        config = {"format": FORMAT, "probe": type(self).__name__, "params": params, "texts": texts}
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(arrays, out / "probe.safetensors")
        return out

    @classmethod
    def load(cls, folder: str | Path) -> Any:
        """Read what `save` wrote.

        Raises:
            ProbeError: the folder holds no probe, another one, one of another version, or a damaged one.
        """
        from safetensors.numpy import load_file

        out = Path(folder)
        if not (out / "config.json").is_file():
            raise ProbeError(f"{out} holds no probe: there is no config.json in it. Give the folder that save() wrote.")
        with undamaged(out):
            config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        if config.get("probe") != cls.__name__:
            raise ProbeError(f"{out} holds a {config.get('probe')}, not a {cls.__name__}.")
        if config.get("format") != FORMAT:
            raise ProbeError(f"{out} was written by another version of probes; fit the probe again.")
        with undamaged(out):
            probe = cls(**{name: _given(value) for name, value in config["params"].items()})
            fitted = load_file(out / "probe.safetensors") | {k: np.asarray(v) for k, v in config["texts"].items()}
        for name, value in fitted.items():
            setattr(probe, name, value.item() if value.ndim == 0 else value)
        return probe

    def _arrays(self) -> dict[str, NDArray[Any]]:
        names = [n for n in vars(self) if n.endswith("_") and not n.startswith("_")]
        return {n: np.asarray(getattr(self, n)) for n in names}


def _plain(name: str, value: Any) -> Any:
    """A parameter as JSON holds it: weights by class as pairs, since JSON would make text of their keys."""
    if isinstance(value, dict):
        return {PAIRS: [[_plain(name, k), _plain(name, v)] for k, v in value.items()]}
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool | int | float | str | None):
        return value
    raise ProbeError(f"{name}={value!r} cannot be saved: JSON holds numbers, text, and mappings of these.")


def _given(value: Any) -> Any:
    """What `_plain` was given."""
    return dict(value[PAIRS]) if isinstance(value, dict) else value
