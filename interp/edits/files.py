"""Graphs as files: JSON that a person can read, and beside it a safetensors file of the tensors, named by content."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from interp.edits.curve import Curve
from interp.edits.given import Picture, UseExpert
from interp.edits.graph import Edit, EditGraph, graph_of
from interp.edits.knockout import Knockout
from interp.edits.mixing import Resample, Wire, WorldMean
from interp.edits.noise import Noise
from interp.edits.op import Op
from interp.edits.ops import Add, Clamp, Erase, Interpolate, Patch, ProjectOut, Scale, TokenMean, Zero
from interp.edits.random_change import RandomChange
from interp.edits.sources import Activation, Constant, FromStore, OtherRun, Source, Stored, World
from interp.edits.values import Values
from interp.errors import InterpError, suggest
from interp.runspec import RunSpec, SamplerSettings
from interp.selection import Selection
from interp.tasks.sample import Sample

FORMAT = 1
OPS: dict[str, type[Op]] = {
    op.name: op
    for op in (
        Patch, Zero, TokenMean, Add, Scale, ProjectOut, Clamp, Interpolate, Noise, Wire, WorldMean, Resample, Knockout,
        RandomChange, Picture, UseExpert, Erase,
    )
}  # fmt: skip
SOURCES: dict[str, type[Any]] = {
    "constant": Constant,
    "world": World,
    "stored": Stored,
    "run": OtherRun,
    "store": FromStore,
}


def save(edits: Edit | EditGraph, path: str | Path) -> Path:
    """Write a graph as ``path`` (JSON) and, if it holds tensors, ``path`` with the suffix .safetensors.

    Raises:
        InterpError: a function or a sample of no task, which cannot be saved.
    """
    from safetensors.torch import save_file

    path, graph = Path(path), graph_of(edits)
    tensors: dict[str, Values] = {}
    text = json.dumps(_graph(graph, tensors), indent=1)
    if tensors:
        save_file({k: v.tensor for k, v in tensors.items()}, path.with_suffix(".safetensors"))
    path.write_text(text + "\n")
    return path


def load(path: str | Path) -> EditGraph:
    """Read a graph that `save` wrote.

    Raises:
        InterpError: a file that is missing or malformed, naming the edit and the field.
    """
    path = Path(path)
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InterpError(f"cannot read the edits in {path}: {error}") from None
    tensors: dict[str, Values] = {}
    beside = path.with_suffix(".safetensors")
    if beside.exists():
        from safetensors.torch import load_file

        tensors = {name: Values.of(tensor) for name, tensor in load_file(beside).items()}
    if not isinstance(said, dict) or said.get("format") != FORMAT or not isinstance(said.get("edits"), list):
        raise InterpError(f"{path} holds no edits of format {FORMAT}: it needs 'format' and a list of 'edits'")
    return EditGraph(tuple(_read_edit(one, f"{path.name}: edit {i}", tensors) for i, one in enumerate(said["edits"])))


def described(graph: EditGraph) -> str:
    """Canonical JSON of a graph, tensors and stores by their digests: what its key is the hash of."""
    return json.dumps(_graph(graph, None), sort_keys=True)


def _graph(graph: EditGraph, tensors: dict[str, Values] | None) -> dict[str, Any]:
    """As JSON; tensors are put into ``tensors``. None: what does not count in a comparison is left out."""
    return {"format": FORMAT, "edits": [_edit(edit, tensors) for edit in graph]}


def _edit(edit: Edit, tensors: dict[str, Values] | None) -> dict[str, Any]:
    if not edit.op.serialisable:
        raise InterpError(f"{edit.op} cannot be saved; use a named operation, or keep the script that makes the edit")
    return {
        "op": {"name": edit.op.name, **_fields(edit.op, tensors)},
        "selection": str(edit.selection),
        "sources": [{"kind": _kind(source), **_fields(source, tensors)} for source in edit.sources],
        "rows": None if edit.rows is None else list(edit.rows),
    }


def _kind(source: Source) -> str:
    return next(name for name, kind in SOURCES.items() if isinstance(source, kind))


def _fields(value: Any, tensors: dict[str, Values] | None) -> dict[str, Any]:
    if isinstance(value, OtherRun):
        return {"identity": json.loads(value.identity)}
    fields = [f.name for f in dataclasses.fields(value) if tensors is not None or f.compare]
    return {name: _encoded(getattr(value, name), tensors) for name in fields}


def _encoded(value: Any, tensors: dict[str, Values] | None) -> Any:
    if isinstance(value, Values):
        if tensors is not None:
            tensors[value.digest] = value
        return {"tensor": value.digest}
    if isinstance(value, Selection):
        return {"selection": str(value)}
    if isinstance(value, Curve):
        return {"curve": _fields(value, tensors)}
    if isinstance(value, Activation):
        return {"activation": _fields(value, tensors)}
    if isinstance(value, tuple):
        return [_encoded(one, tensors) for one in value]
    return value


def _decoded(value: Any, tensors: dict[str, Values], where: str) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(one, tensors, where) for one in value)
    if not isinstance(value, dict):
        return value
    if "selection" in value:
        return Selection.parse(value["selection"])
    if "curve" in value:
        return _made(Curve, value["curve"], tensors, where)
    if "activation" in value:
        return _made(Activation, value["activation"], tensors, where)
    digest = value.get("tensor")
    if digest not in tensors:
        raise InterpError(f"{where}: the tensor {digest!r} is not in the safetensors file beside it")
    if tensors[digest].digest != digest:
        raise InterpError(f"{where}: the tensor {digest!r} is not what was saved; the safetensors file was changed")
    return tensors[digest]


def _read_edit(said: Any, where: str, tensors: dict[str, Values]) -> Edit:
    fields = ("op", "selection", "sources", "rows")
    if not isinstance(said, dict) or set(said) != set(fields):
        raise InterpError(
            f"{where} needs the fields {', '.join(fields)}, and has {list(said) if isinstance(said, dict) else said}"
        )
    try:
        op = dict(said["op"])
        kind = OPS.get(op.pop("name", None))
        if kind is None:
            name = str(said["op"].get("name"))
            raise InterpError(f"no operation is called {name!r}{suggest(name, OPS)}; there are {', '.join(OPS)}")
        sources = tuple(_read_source(dict(one), tensors, where) for one in said["sources"])
        rows = None if said["rows"] is None else tuple(said["rows"])
        return Edit(Selection.parse(said["selection"]), _made(kind, op, tensors, where), sources, rows)
    except InterpError as error:
        raise type(error)(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InterpError(f"{where}: malformed: {error}") from None


def _read_source(said: dict[str, Any], tensors: dict[str, Values], where: str) -> Source:
    name = said.pop("kind", None)
    kind = SOURCES.get(name)
    if kind is None:
        raise InterpError(f"no source is of kind {name!r}{suggest(str(name), SOURCES)}; kinds are {', '.join(SOURCES)}")
    if kind is OtherRun:
        return _restored(said["identity"])
    return _made(kind, said, tensors, where)


def _made(kind: type[Any], said: dict[str, Any], tensors: dict[str, Values], where: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    required = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    wrong = sorted((set(said) - known) | (required - set(said)))
    if wrong:
        what = "has no field" if wrong[0] in said else "lacks the field"
        raise InterpError(
            f"{where}: {getattr(kind, 'name', kind.__name__)} {what} {wrong[0]!r}; "
            f"its fields are {', '.join(sorted(known))}"
        )
    return kind(**{name: _decoded(value, tensors, where) for name, value in said.items()})


def _restored(identity: dict[str, Any]) -> OtherRun:
    """A run or sample from its description; the task builds the sample again."""
    text = json.dumps(identity, sort_keys=True)
    if "sample" in identity:
        said = identity["sample"]
        return OtherRun(text, _sample(said["task"], said["meta"]))
    said = identity["run"]
    sample = _sample(said["task"], said["meta"])
    if sample is None:
        return OtherRun(text, None)
    settings = SamplerSettings(**said["settings"])
    config = json.dumps(said["scheduler_config"], sort_keys=True)
    return OtherRun(text, RunSpec(said["model"], said["model_hash"], sample, said["seed"], settings, config))


def _sample(task: str, meta: dict[str, Any]) -> Sample | None:
    if not task:
        return None
    from interp.tasks import get

    return get(task).restore(meta)


__all__ = ["described", "load", "save"]
