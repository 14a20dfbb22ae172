"""Text tokens by the words of the prompt."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from interp import edits, views
from interp.errors import SelectionError
from interp.lab import load
from tests import pipelines
from tests.tracer.runs import specs_of

PROMPT = "the green agent moves from start to the red goal."


@pytest.fixture(scope="module")
def lab_and_run() -> Any:
    lab = load(pipelines.tiny_t2v())
    arguments = pipelines.call_arguments(lab.pipe, guidance=5.0, steps=2) | {"max_sequence_length": 16}
    return lab, specs_of(lab, arguments, [3])[0]


@pytest.mark.parametrize("words", ["green", "goal", "The red goal", "from  start to"])
def test_tokens_decode_to_the_words(words: str, lab_and_run: Any) -> None:
    lab, run = lab_and_run
    ids = lab.pipe.tokenizer(run.sample.prompt)["input_ids"]
    found = lab.words(run, words)
    assert lab.pipe.tokenizer.decode([ids[t] for t in found]).split() == words.lower().split()
    assert found == lab.words(run.sample, words) == lab.words(PROMPT, words)


def test_words_made_of_several_tokens_have_all_of_them() -> None:
    """A byte-level tokenizer: every letter is a token, and the space before a word is none of its tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(models.WordLevel({c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz .?")}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    lab = load(pipelines.tiny_t2v())
    lab.pipe.tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="?")
    assert lab.words(PROMPT, "red") == tuple(range(PROMPT.index("red"), PROMPT.index("red") + 3))
    with pytest.raises(SelectionError, match=r"'goal' is cut off.*16 text tokens"):
        lab.words(dataclasses.replace(_run(lab), sample=dataclasses.replace(_run(lab).sample, prompt=PROMPT)), "goal")


def _run(lab: Any) -> Any:
    return specs_of(lab, pipelines.call_arguments(lab.pipe) | {"max_sequence_length": 16}, [3])[0]


@pytest.mark.parametrize(
    ("words", "nth", "message"),
    [
        ("gaol", None, r"does not say 'gaol' \(did you mean goal"),
        ("goa", None, "does not say 'goa'"),
        ("the", None, r"says 'the' 2 times; say which with nth=0 to 1, or give more of the words around"),
        ("the", 2, "nth=2"),
        ("red", 1, "nth=1"),
        ("  ", None, "no word was asked for"),
    ],
)
def test_words_that_are_not_there_once_are_refused(words: str, nth: int | None, message: str, lab_and_run: Any) -> None:
    lab, run = lab_and_run
    with pytest.raises(SelectionError, match=message):
        lab.words(run, words, nth=nth)


def test_of_several_one_is_chosen(lab_and_run: Any) -> None:
    lab, run = lab_and_run
    assert (lab.words(run, "the", nth=0), lab.words(run, "the", nth=1)) == ((0,), (7,))
    assert lab.words(run, "the red")[0] == 7


def test_a_tokenizer_that_does_not_tell_is_refused(lab_and_run: Any) -> None:
    lab = load(pipelines.tiny_t2v())
    lab.pipe.tokenizer = torch.nn.Identity()
    with pytest.raises(SelectionError, match="Identity does not say which characters"):
        lab.words(PROMPT, "goal")


def test_words_in_knockouts_masses_and_means(lab_and_run: Any) -> None:
    """Against the pattern itself: the mass of a word is a sum of its columns, and after a knock-out there is none."""
    lab, run = lab_and_run
    goal, at = lab.words(run, "red goal"), "blocks.1.cross_attn"
    whole = lab.run(run, [f"{at}.hook_pattern", f"{at}.hook_v"])
    pattern, values = (whole.captured[f"{at}.hook_{op}"][:, 0] for op in ("pattern", "v"))
    mass = views.attention_mass(None, {"goal": goal})
    kept = lab.run(run, f"{at}.hook_pattern", views=[mass]).captured[f"{at}.hook_pattern@{mass.name}"][:, 0]
    torch.testing.assert_close(kept[..., 0], pattern[..., list(goal)].sum(-1))
    mean = views.region_mean(goal=goal)
    kept = lab.run(run, f"{at}.hook_v", views=[mean]).captured[f"{at}.hook_v@{mean.name}"][:, 0]
    torch.testing.assert_close(kept[:, 0], values[:, list(goal)].mean(1))
    cut = lab.run(run, f"{at}.hook_z", edits=edits.knockout(at, keys=goal, branch="cond"))
    others = [t for t in range(pattern.shape[-1]) if t not in goal]
    rest = pattern[0][..., others] / pattern[0][..., others].sum(-1, keepdim=True)
    z = torch.einsum("hqk,khd->qhd", rest, values[0, others])
    torch.testing.assert_close(cut.captured[f"{at}.hook_z"][0, 0], z, rtol=1e-4, atol=1e-5)


def test_a_set_of_words_that_the_text_does_not_have_is_refused(lab_and_run: Any) -> None:
    lab, run = lab_and_run
    with pytest.raises(SelectionError, match="text_token 99 is out of range"):
        lab.run(run, "blocks.1.cross_attn.hook_v", views=[views.region_mean(goal=[99])])
    with pytest.raises(SelectionError, match="no set on the axis 'text_token'"):
        lab.run(run, "text_embed.hook_out", views=[views.region_mean("goal")])
