"""Few steps with and without a distillation's LoRA: which weights each run had, and that the model comes back."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from interp.fingerprint import fingerprint
from studies.base.claim import OPEN
from studies.distilled import STUDY, claims
from studies.runs.bench import lab_of
from studies.runs.work import Terms
from tests.pipelines import tiny_i2v
from tests.studies.counted import counted
from tests.tracer.test_lora import drawn

OPTIONS = [
    "--size",
    "4",
    "--problems",
    "2",
    "--seeds",
    "1",
    "--counts",
    "1",
    "3",
    "--few",
    "1",
    "--guidance-scale",
    "2",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "pipe"
    tiny_i2v(two_experts=True).save_pretrained(folder)
    return folder


def test_a_lora_is_merged_into_a_second_copy(model: Path, tmp_path: Path) -> None:
    pipe = lab_of(str(model), None, None).pipe
    before = fingerprint(pipe)
    high, low = tmp_path / "high.safetensors", tmp_path / "low.safetensors"
    for file, seed in ((high, 1), (low, 2)):
        save_file(drawn(pipe, seed=seed), file)
    with_files = ["--lora", str(high), str(low), "--lora-counts", "1", "2"]
    command = ["--model", str(model), "--out", str(tmp_path / "out"), *OPTIONS, *with_files]
    with counted(pipe) as own:
        assert STUDY.main(command) == 0
    assert fingerprint(pipe) == before
    table = pl.read_parquet(tmp_path / "out" / "table.parquet")
    assert set(table.select("weights", "steps").unique().iter_rows()) == {
        ("own", 1), ("own", 3), ("lora", 1), ("lora", 2),
    }  # fmt: skip
    stores = {store.name: sorted(store.glob("runs/*.h5")) for store in (tmp_path / "out" / "cache").iterdir()}
    assert [len(runs) for runs in stores.values()] == [2] * 4
    assert own.total() == 2 * (1 + 3)  # both passes; the copy with the LoRA is not counted, and has one
    assert STUDY.work is not None
    assert STUDY.work(Terms.of(STUDY.parse(command))).calls == own.total() + 1 + 2


def test_files_that_do_not_fit_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "one.safetensors"
    save_file({"blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 3)}, file)
    for files, said in (([file], "two experts"), ([file, file, file], "3 files"), ([file, "none"], "lora_A")):
        command = ["--model", str(model), "--out", str(tmp_path / "out"), *OPTIONS, "--lora", *map(str, files)]
        assert STUDY.main(command) == 2
        assert said in capsys.readouterr().err


def test_a_few_runs_that_never_change_their_favourite_settle_nothing() -> None:
    runs = pl.DataFrame({"sample": list("abcdefgh"), "right": [1] * 8, "switches": [0] * 8, "explored": [0.5] * 8})
    for claim in claims(runs, runs, (4, 20)):
        assert claim.low < claim.value == 0 < claim.high
        assert claim.verdict == OPEN
