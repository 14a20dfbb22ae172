"""Random graphs over sites, layers, steps, branches, heads, tokens and worlds, against a naive interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp import edits, select
from tests.edits.labs import lab_and_runs, results

STEPS, BRANCHES, LAYERS, TOKENS = 2, ("cond", "uncond"), 2, 12
OPS = ("resid_post", "mlp_out", "attn.hook_z")
WHEN: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {  # what is asked, and the steps that are meant
    "always": ({}, (0, 1)),
    "first step": ({"step": 0}, (0,)),
    "last step": ({"step": -1}, (1,)),
    "noisy": ({"sigma": (0.95, None)}, (0,)),
    "less noisy": ({"sigma": (None, 0.95)}, (1,)),
    "high": ({"expert": "high"}, (0,)),
    "low": ({"expert": "low"}, (1,)),
}


@dataclass(frozen=True)
class Drawn:
    """One edit as it was drawn; None leaves an axis free."""

    kind: str
    x: float
    op: str
    layer: int | None
    when: str
    branch: str | None
    head: int | None
    tokens: tuple[int, ...]
    rows: tuple[int, ...]

    def edit(self) -> edits.Edit:
        """The same in the package's words."""
        layer = "*" if self.layer is None else self.layer
        name = f"blocks.{layer}.{self.op if self.op == 'attn.hook_z' else 'hook_' + self.op}"
        axes: dict[str, Any] = {"branch": self.branch, "tokens": list(self.tokens)} | WHEN[self.when][0]
        axes["head"] = self.head if self.op == "attn.hook_z" else None
        where, rows = select(name, **axes), self.rows
        match self.kind:
            case "scale":
                return edits.scale(where, self.x, rows=rows)
            case "add":
                return edits.add(where, self.x, 1.5, rows=rows)
            case "zero":
                return edits.zero(where, rows=rows)
            case "set":
                return edits.set_to(where, self.x, rows=rows)
            case "clamp":
                return edits.clamp(where, -abs(self.x), abs(self.x), rows=rows)
            case "patch":
                return edits.patch(where, 1, rows=rows)
            case "swap":
                return edits.swap(where)
            case "mean":
                return edits.mean_over_worlds(where, into=rows)
            case _:
                return edits.interpolate(where, 0, 0.25, rows=rows)

    def fires(self, op: str, layer: int, step: int, branch: str) -> bool:
        """Whether it is at an address."""
        here = self.op == op and self.layer in (None, layer)
        return here and step in WHEN[self.when][1] and self.branch in (None, branch)

    def naively(self, x: Tensor) -> None:
        """Change [world, token, feature] or [world, token, head, feature] in place, one vector at a time."""
        heads = [...] if x.ndim == 3 else [self.head] if self.head is not None else range(x.shape[2])
        for token in self.tokens:
            for head in heads:
                at = (token,) if x.ndim == 3 else (token, head)
                worlds = [x[(world, *at)].clone() for world in range(len(x))]
                for world in (0, 1) if self.kind == "swap" else self.rows:
                    x[(world, *at)] = self.of(worlds, world)

    def of(self, worlds: list[Tensor], world: int) -> Tensor:
        """What becomes of one vector of a world."""
        own = worlds[world]
        return {
            "scale": own * self.x,
            "add": own + 1.5 * self.x,
            "zero": own * 0,
            "set": own * 0 + self.x,
            "clamp": own.clamp(-abs(self.x), abs(self.x)),
            "patch": worlds[1],
            "swap": worlds[1 - world],
            "mean": (worlds[0] + worlds[1]) / 2,
            "interpolate": 0.75 * own + 0.25 * worlds[0],
        }[self.kind]


KINDS = ("scale", "add", "zero", "set", "clamp", "patch", "swap", "mean", "interpolate")
DRAWN = st.builds(
    Drawn,
    kind=st.sampled_from(KINDS),
    x=st.sampled_from([0.5, -1.0, 2.0]),
    op=st.sampled_from(OPS),
    layer=st.sampled_from([None, 0, 1]),
    when=st.sampled_from(sorted(WHEN)),
    branch=st.sampled_from([None, *BRANCHES]),
    head=st.sampled_from([None, 0, 1]),
    tokens=st.sets(st.integers(0, TOKENS - 1), min_size=1).map(lambda tokens: tuple(sorted(tokens))),
    rows=st.sampled_from([(0,), (1,), (0, 1)]),
)


def naive_run(lab: Any, runs: Any, drawn: list[Drawn]) -> Tensor:
    """Plain hooks on an unedited run; forwards are counted by hand: cond, then uncond, step after step."""
    calls = {"n": -1}
    models = [lab.pipe.transformer, lab.pipe.transformer_2]

    def changed(x: Tensor, op: str, layer: int) -> Tensor:
        step, branch = divmod(calls["n"], 2)
        x = x.clone()
        for one in drawn:
            if one.fires(op, layer, step, BRANCHES[branch]):
                one.naively(x)
        return x

    def count(*_: Any) -> None:
        calls["n"] += 1

    handles = []
    for model in models:
        handles.append(model.register_forward_pre_hook(count))
        for i, block in enumerate(model.blocks):
            heads = block.attn1.heads

            def z(_: Any, args: Any, i: int = i, heads: int = heads) -> tuple[Tensor]:
                return (changed(args[0].unflatten(2, (heads, -1)), "attn.hook_z", i).flatten(2),)

            handles += [
                block.register_forward_hook(lambda _, __, out, i=i: changed(out, "resid_post", i)),
                block.ffn.register_forward_hook(lambda _, __, out, i=i: changed(out, "mlp_out", i)),
                block.attn1.to_out[0].register_forward_pre_hook(z),
            ]
    try:
        return results(lab.run(runs))
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    lab, runs = lab_and_runs(steps=STEPS)
    schedule = lab.schedule(runs[0].settings)
    assert schedule.experts == ("high", "low")
    assert schedule.sigmas[0] > 0.95 > schedule.sigmas[1]
    return lab, runs[:2]


@given(drawn=st.lists(DRAWN, min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_random_graphs_do_what_a_naive_interpreter_does(
    small: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory, drawn: list[Drawn]
) -> None:
    """Composed, overlapping and in any order; saved and loaded on the way."""
    lab, runs = small
    graph = edits.EditGraph(tuple(one.edit() for one in drawn))
    loaded = edits.load(graph.save(tmp_path_factory.mktemp("graph") / "edits.json"))
    assert loaded == graph
    assert loaded.key == graph.key
    got = lab.run(runs, edits=loaded)
    torch.testing.assert_close(results(got), naive_run(lab, runs, drawn), atol=1e-4, rtol=1e-4)
    places = [(op, i, step, b) for op in OPS for i in range(LAYERS) for step in range(STEPS) for b in BRANCHES]
    assert [got[0].edited.count(i) for i in range(len(drawn))] == [
        sum(one.fires(*place) for place in places) for one in drawn
    ]
