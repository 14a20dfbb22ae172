"""Summing up a store, and the command line."""

from __future__ import annotations

import errno
import importlib
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from interp.cli import app, main
from interp.store import Store, consolidate, info
from tests.store.making import NORM, RESID, layout_of, make_store, two_stores, write_run


def test_info(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=2)
    write_run(store, layout_of("wide", seed=5, rows=5))
    consolidate(store)
    write_run(store, layout_of("late", seed=6))
    store.refresh()
    found = info(store)
    assert (found.runs, found.consolidated, found.unlisted) == (4, 3, ())
    assert found.grids == {(2, 3, 4): 3, (2, 5, 4): 1}
    assert found.labels["on_path"] == 4
    site = found.sites[0]
    assert (site.site, site.dtype, site.runs) == (RESID, "bfloat16", 4)
    assert site.shapes == {(4, 2, 24, 16): 3, (4, 2, 40, 16): 1}
    assert site.nbytes == (3 * 24 + 40) * 4 * 2 * 16 * 2
    assert found.nbytes == sum(p.stat().st_size for p in (store.path / "runs").iterdir())


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["cache", *(str(a) for a in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_command_line(tmp_path: Path) -> None:
    first, second = two_stores(tmp_path)
    status, said = invoke("merge", tmp_path / "m", first, second)
    assert status == 0
    assert said.endswith("m: 3 runs\n")
    status, said = invoke("consolidate", tmp_path / "m", "--memory", 1)
    assert (status, said.splitlines()[-1]) == (0, "made 1 site-major files")
    assert invoke("consolidate", tmp_path / "m") == (0, "all was up to date\n")
    status, said = invoke("info", tmp_path / "m")
    assert status == 0
    for words in (
        "3 runs",
        "3 of them site-major",
        "model_hash: abc",
        "2 x 3 x 4 (3 runs)",
        "on_path",
        RESID,
        "bfloat16",
    ):
        assert words in said
    status, said = invoke("verify", tmp_path / "m")
    assert status == 0
    assert "4 files" in said
    assert "0 damaged" in said
    status, said = invoke("export", tmp_path / "m", tmp_path / "out", "--sites", NORM, "--format", "npy", "--step", 5)
    assert status == 0
    assert np.load(tmp_path / "out" / f"{NORM}.npy").shape == (3, 1, 2, 2)


def test_the_command_line_drops_what_is_damaged(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", seeds=3)
    (name,) = consolidate(store)
    (store.path / "runs/run1.h5").unlink()
    (store.path / f"consolidated/{name}.h5").write_bytes(b"")
    status, said = invoke("verify", store.path)
    assert status == 1
    assert "run run1:" in said
    assert "2 damaged" in said
    status, said = invoke("verify", store.path, "--drop")
    assert status == 0
    assert Store.open(store.path).runs == ("run0", "run2")
    assert invoke("verify", store.path)[0] == 0


def test_the_command_line_says_what_is_wrong_in_one_sentence(tmp_path: Path) -> None:
    for command in (["info"], ["verify"], ["consolidate"], ["merge", tmp_path / "m"], ["export"]):
        status, said = invoke(*command, tmp_path / "none", *([tmp_path / "out"] if command == ["export"] else []))
        assert status == 2
        assert said.startswith("error: ")
        assert "not a store" in said
        assert said.count("\n") == 1


def test_provenance_is_shown_as_it_is(tmp_path: Path) -> None:
    """Brackets and colons mean something to the library that prints, and escape codes to a terminal."""
    about = {"selection": "blocks.*[step=0:5]", "note": "[/bold] :smile:", "list": ["a", 1], "code": "\x1b[31m"}
    write_run(Store.create(tmp_path / "s", about), layout_of("run0"))
    said = invoke("info", tmp_path / "s")[1]
    for line in ("selection: blocks.*[step=0:5]", "note: [/bold] :smile:", 'list: ["a", 1]', r'code: "\u001b[31m"'):
        assert f"  {line}\n" in said


@pytest.mark.parametrize("command", ["info", "verify", "consolidate", "merge", "export"])
def test_ctrl_c_and_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Damage, mistakes and an interruption can be told apart by the status."""
    store = make_store(tmp_path / "s", seeds=1)
    arguments = {"merge": [tmp_path / "m", store.path], "export": [store.path, tmp_path / "out"]}
    name = {"info": "info_of"}.get(command, f"{command}_{'stores' if command == 'merge' else 'store'}")
    for error, status, words in (
        (KeyboardInterrupt(), 130, "interrupted: what was finished before is intact"),
        (OSError(errno.EIO, "Input/output error", "/disk"), 2, "error: [Errno 5] Input/output error: '/disk'"),
    ):

        def fails(*args: Any, error: BaseException = error, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr(importlib.import_module("interp.store.cli"), name, fails)
        got, said = invoke(command, *arguments.get(command, [store.path]))
        assert got == status
        assert said.startswith(words)
        assert said.count("\n") == 1


def test_the_installed_command_is_this_one() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    command = EntryPoint("wan-interp", project["scripts"]["wan-interp"], "console_scripts").load()
    assert command is main
    assert CliRunner().invoke(app, ["--version"]).output == f"wan-interp {project['version']}\n"
    helped = CliRunner().invoke(app, ["cache", "--help"]).output
    assert all(name in helped for name in ("info", "verify", "consolidate", "merge", "export"))
