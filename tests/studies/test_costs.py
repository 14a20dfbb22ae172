"""What the estimates rest on: operations counted on the published configurations, and a page that is up to date."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from docs.make_study_costs import render
from interp import tasks
from interp.errors import ModelError, TaskError
from interp.model import load_pipeline
from interp.runspec import SamplerSettings
from studies import NAMES, study_named
from studies.__main__ import main
from studies.base.blueprint import KNOWN, Blueprint
from studies.frame.cost import DECODE_A_PIXEL, priced
from studies.runs.work import Forward, Terms, Work

A14B = Blueprint.named("Wan-AI/Wan2.2-I2V-A14B-Diffusers")


@torch.no_grad()
def test_operations_of_a_forward_are_those_that_torch_counts() -> None:
    small = dataclasses.replace(A14B, config={**A14B.config, "num_layers": 2})
    with torch.device("meta"):
        model = WanTransformer3DModel(**small.config)
        latents, text = torch.zeros(1, 36, 5, 32, 32), torch.zeros(1, 512, 4096)
    grid = small.grid(17, 256, 256)
    assert grid.tokens == 5 * 16 * 16
    with FlopCounterMode(display=False) as counter:
        model(latents.to("meta"), timestep=torch.zeros(1, device="meta"), encoder_hidden_states=text.to("meta"))
    assert small.flops(grid.tokens) == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert small.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.01)


@torch.no_grad()
def test_operations_of_decoding_are_those_that_torch_counts() -> None:
    with torch.device("meta"):
        vae = AutoencoderKLWan()
        latents = torch.zeros(1, 16, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        vae.decode(latents.to("meta"))
    assert counter.get_total_flops() / (9 * 128 * 128) == pytest.approx(DECODE_A_PIXEL, rel=0.05)
    assert sum(p.numel() for p in vae.parameters()) == pytest.approx(A14B.vae_parameters, rel=0.01)


def test_a_blueprint_says_what_the_pipeline_says() -> None:
    name = "wan-maze-mini"
    read, of = Blueprint.named(name), Blueprint.of(load_pipeline(name), name)
    for field in ("boundary_ratio", "per_token_time", "stride", "block_exact", "layers", "width", "experts"):
        assert getattr(read, field) == getattr(of, field)
    assert read.text_parameters == of.text_parameters
    assert read.vae_parameters == of.vae_parameters
    settings = SamplerSettings(steps=5)
    assert read.schedule(settings) == of.schedule(settings)


def test_the_published_model_changes_experts_where_the_preset_says() -> None:
    given = study_named("chain_of_steps").parse(
        ["--out", "o", "--folder", "DIR", "--preset", "vbvr-diffsynth", "--problems", "1", "--seeds", "1"]
    )
    work = Terms(given, A14B, (81, 480, 832)).clean()
    assert work.forwards == {Forward("high", 1, 32760): 2 * 21, Forward("low", 1, 32760): 2 * 29}


def test_the_price_of_a_known_amount_of_work() -> None:
    given = study_named("chain_of_steps").parse(["--out", "o", "--steps", "10"])
    terms = Terms(given, A14B, (81, 480, 832))
    work = Work()
    work.forwards[Forward("high", 2, 32760)] = 3
    found = priced(work, terms)
    assert found.petaflops == pytest.approx(6 * A14B.flops(32760) / 1e15)
    assert found.hours[0] < found.hours[1]
    assert found.resident - found.offloaded == pytest.approx(2 * (A14B.parameters + A14B.text_parameters))
    assert found.fits() == {"80 GB": "yes", "141 GB": "yes"}
    work.forwards[Forward("high", 16, 32760)] = 1
    assert priced(work, terms).fits()["80 GB"] == "no"


def test_every_study_counts_its_work() -> None:
    assert [name for name in NAMES if study_named(name).work is None] == []


def test_the_page_of_costs_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "study_costs.md"
    assert page.read_text() == render(), "run `python -m docs.make_study_costs`"


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "chain_of_steps", "--problems", "3", "--seeds", "2", "--steps", "4", "--batch-size", "4"]) == 0
    said = capsys.readouterr().out
    assert "24 forwards" in said
    assert "4 calls of the main transformer on 4 rows" in said
    assert "4 calls of the main transformer on 2 rows" in said
    assert main(["cost", "chain_of_step"]) == 2
    assert "did you mean chain_of_steps" in capsys.readouterr().err
    assert main(["cost", "noise", "--model", "Wan-AI/Wan3"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in KNOWN)


def test_what_is_for_folders_is_refused_for_tasks() -> None:
    given = study_named("noise").parse(["--out", "o", "--task", "maze", "--video", "17", "64", "64"])
    with pytest.raises(TaskError, match="--folder"):
        Terms.of(given)
    with pytest.raises(ModelError, match="nothing-here"):
        Blueprint.named("nothing-here")


def test_size_is_for_tasks_that_have_it() -> None:
    for name in set(tasks.names()) - {"vbvr"}:
        terms = Terms.of(study_named("noise").parse(["--out", "o", "--task", name, "--size", "5"]))
        assert terms.video == (17, 80, 80)
