"""The package as others get it: what importing it costs, what a wheel holds, what must never be in the repository."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("interp", "probes", "studies")
LAYERS = ("base", "runs", "measures", "drawing", "frame")
"""Of the packages below the studies, from the bottom."""
SHAPE = re.compile(r"\b(Float|Int|Bool|Shaped|Num|Integer|UInt8|BFloat16)\[")


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def tracked_files() -> Iterator[Path]:
    """Files under version control, or in an unpacked sdist all files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.split("\0") if listed.returncode == 0 else [str(p) for p in ROOT.rglob("*")]
    return (ROOT / name for name in names if name and (ROOT / name).is_file())


def modules() -> list[str]:
    paths = [str(ROOT / package) for package in PACKAGES]
    found = [m.name for p, path in zip(PACKAGES, paths, strict=True) for m in pkgutil.walk_packages([path], f"{p}.")]
    return [*PACKAGES, *(name for name in found if not name.endswith("__main__"))]


IMPORTS = """
import importlib, sys
heavy = {"diffusers", "transformers", "matplotlib", "plotly", "umap", "numba", "nnsight", "accelerate"}
for name in ("probes", "interp"):
    importlib.import_module(name)
    assert not heavy & set(sys.modules), (name, heavy & set(sys.modules))
for name in ("lab", "trace", "edits", "collect"):
    importlib.import_module(f"interp.{name}")
    assert "nnsight" not in sys.modules, name
"""


def test_imports_pull_in_nothing_heavy() -> None:
    """What takes seconds to import is imported where it is used, and nnsight by a trace alone."""
    done = python("-c", IMPORTS)
    assert done.returncode == 0, done.stderr


def test_interp_knows_nothing_of_probes_and_nobody_imports_studies() -> None:
    forbidden = {"interp": {"probes", "studies"}, "probes": {"studies"}}
    for package, banned in forbidden.items():
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text())
            named = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            named |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
            assert not {name.split(".")[0] for name in named} & banned, file


def test_probes_import_only_the_store_and_the_errors() -> None:
    allowed = ("interp.store", "interp.errors")
    for file in (ROOT / "probes").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not name.startswith("interp") or name.startswith(allowed), f"{file}: {name}"


def test_studies_rest_on_packages_in_layers() -> None:
    """Each uses those below it, and no study uses another; what is imported for type checkers only may look up."""
    for file in (ROOT / "studies").rglob("*.py"):
        room = file.relative_to(ROOT / "studies").parts[0]
        tree = ast.parse(file.read_text())
        typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
        skipped = {id(inner) for node in typing for inner in ast.walk(node)}
        used = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and id(n) not in skipped}
        used = {name.split(".")[1] for name in used if name.startswith("studies.")}
        assert used <= set(LAYERS[: LAYERS.index(room) + 1] if room in LAYERS else LAYERS), file


@pytest.mark.parametrize("name", modules())
def test_every_shape_annotation_can_be_evaluated(name: str) -> None:
    """One that cannot (a misspelt name, one imported for type checkers only) would be a check that never fails."""
    module = importlib.import_module(name)
    source = Path(module.__file__ or "").read_text()
    for node in ast.walk(ast.parse(source)) if SHAPE.search(source) else ():
        if isinstance(node, ast.FunctionDef):
            annotations = [a.annotation for a in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
            for annotation in annotations:
                text = ast.unparse(annotation) if annotation else ""
                if SHAPE.search(text):
                    eval(text, dict(vars(module)))  # the annotation's own text


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert (importlib.import_module(name).__doc__ or "").strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = python("-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_packages_their_data_and_nothing_else(wheel: Path) -> None:
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert {name.split("/")[0] for name in names} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    wanted = {f.relative_to(ROOT).as_posix() for f in tracked_files() if f.relative_to(ROOT).parts[0] in PACKAGES}
    assert wanted <= names


def test_installed_wheel_works_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    assert pip.returncode == 0, pip.stderr
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import interp, probes, importlib.metadata as m; "
        "print(interp.__file__); print(m.version('wan-interp')); print(*interp.bundled_models())"
    )
    done = python("-I", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    where, version, *models = done.stdout.split()
    assert Path(where).is_relative_to(site)
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert models == [folder.name for folder in sorted((ROOT / "interp" / "models").iterdir())]


def test_no_machine_paths_or_registries_in_the_repository() -> None:
    path = re.compile(r"(^|[\s\"'(=:])/(home|root|tmp|work|opt|mnt|Users)/[\w.]", re.MULTILINE)
    registry = re.compile(r"--(extra-)?index-url|--find-links|\bfile://")
    for file in tracked_files():
        if file == Path(__file__):
            continue
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        found = path.search(text) or registry.search(text)
        assert not found, f"{file.relative_to(ROOT)}: {found and found.group()!r}"


def test_constraints_pin_every_dependency_and_nothing_local() -> None:
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if not x.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    pinned = {re.sub(r"[._-]+", "-", line.split("==")[0]).lower() for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    assert {re.split(r"[<>=!~; \[]", requirement)[0].lower() for requirement in wanted} <= pinned
