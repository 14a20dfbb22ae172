"""Mistakes on the command line: one clear sentence, a status that is not zero, and nothing touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from studies.decodability import STUDY
from tests.pipelines import tiny_i2v


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a stock pipeline loads; it solves nothing, and need not."""
    folder = tmp_path_factory.mktemp("model")
    tiny_i2v().save_pretrained(folder)
    return folder


def fails_with_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert STUDY.main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    assert len(said) == 1, lines
    assert lines[-1] == said[0]
    return said[0]


def a_file(folder: Path) -> str:
    path = folder / "weights.bin"
    path.write_bytes(b"")
    return str(path)


MODELS: dict[str, tuple[Callable[[Path], str], str]] = {
    "a wrong name": (lambda folder: "wan-maze-mimi", "no model is called 'wan-maze-mimi'"),
    "a folder that is no pipeline": (lambda folder: str(folder), "model_index.json"),
    "a file": (a_file, "is a file"),
}


@pytest.mark.parametrize("mistake", MODELS)
def test_wrong_models(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, said = MODELS[mistake]
    assert said in fails_with_one_sentence(["--model", make(tmp_path), "--out", str(tmp_path / "out")], capsys)


OPTIONS = {
    "hook point": (["--hook", "hook_resid_pots"], "hook_resid_post"),
    "target": (["--target", "on_paht"], "on_path"),
    "size": (["--size", "40"], "40"),
}


@pytest.mark.parametrize("mistake", OPTIONS)
def test_unknown_names_and_numbers(
    mistake: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, said = OPTIONS[mistake]
    assert said in fails_with_one_sentence(["--model", str(model), "--out", str(tmp_path / "out"), *options], capsys)


def test_a_folder_with_something_else_in_it_is_left_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("five years")
    assert "not empty" in fails_with_one_sentence(["--model", str(model), "--out", str(tmp_path)], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_written(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(a_file(tmp_path)) / "out"
    assert "cannot be used" in fails_with_one_sentence(["--model", str(model), "--out", str(out)], capsys)


def test_the_command_itself_exits_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "studies.decodability", "--model", "no-such-model", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no model is called 'no-such-model'")
    assert "Traceback" not in done.stderr
