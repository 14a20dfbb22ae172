"""What selections select, and what they say when they select nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from interp.errors import SelectionError
from interp.selection import AddressSpace, Part, Selection, select
from tests.address.spaces import small_space

SPACE = small_space()
BARE = small_space(guidance=False)


def sites(selection: Selection | str, space: AddressSpace = SPACE) -> tuple[str, ...]:
    return (select(selection) if isinstance(selection, str) else selection).resolve(space).sites


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("blocks.*.hook_resid_post", [f"blocks.{i}.hook_resid_post" for i in range(3)]),
        ("blocks.1:.attn.hook_z", ["blocks.1.attn.hook_z", "blocks.2.attn.hook_z"]),
        ("blocks.-1.attn.hook_z", ["blocks.2.attn.hook_z"]),
        ("blocks.{0,-1}.attn.hook_z", ["blocks.0.attn.hook_z", "blocks.2.attn.hook_z"]),
        ("blocks.::2.attn.hook_z", ["blocks.0.attn.hook_z", "blocks.2.attn.hook_z"]),
        ("blocks.{0,1:}.attn.hook_z", [f"blocks.{i}.attn.hook_z" for i in range(3)]),
        ("blocks.0.attn.hook_{q,k,v}", [f"blocks.0.attn.hook_{x}" for x in "qkv"]),
        ("blocks.0.{attn,cross_attn}.hook_z", ["blocks.0.attn.hook_z", "blocks.0.cross_attn.hook_z"]),
        ("**.cross_attn.hook_z", [f"blocks.{i}.cross_attn.hook_z" for i in range(3)]),
        ("blocks.0.hook_resid_*", [f"blocks.0.hook_resid_{x}" for x in ("pre", "mid", "mid_cross", "post")]),
        ("blocks.0.attn1.to_out.0", ["blocks.0.attn.hook_z"]),
        ("blocks.0:2.attn1.to_out.0.input", ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]),
        ("blocks.0.attn1.to_out.0.output", ["blocks.0.hook_attn_out"]),
        ("blocks.*", [f"blocks.{i}.hook_resid_post" for i in range(3)]),
        ("blocks.2", ["blocks.2.hook_resid_post"]),
        ("blocks.2.ffn", ["blocks.2.hook_mlp_out"]),
        ("blocks.2.norm2.input", ["blocks.2.hook_resid_mid"]),
        ("patch_embedding", ["patch_embed.hook_out"]),
        ("latents.hook_x0", ["latents.hook_x0"]),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    assert sites(pattern) == tuple(expected)


def test_wildcards_leave_out_what_is_too_big_to_keep() -> None:
    assert not any("pattern" in site for site in sites("**"))
    assert sites("blocks.0.attn.hook_pattern") == ("blocks.0.attn.hook_pattern",)
    assert sites("blocks.0.*.hook_pattern") == ("blocks.0.attn.hook_pattern", "blocks.0.cross_attn.hook_pattern")
    assert sites(select("blocks.0.attn.hook_pattern") & select(frames=0)) == ("blocks.0.attn.hook_pattern",)


def test_steps_experts_and_sigmas() -> None:
    def steps(**said: object) -> tuple[int, ...]:
        return select("blocks.0.hook_resid_post", **said).resolve(SPACE).steps

    assert steps() == (0, 1, 2, 3, 4)
    assert steps(step=-1) == (4,)
    assert steps(step=slice(1, 9)) == (1, 2, 3, 4)
    assert steps(step=[3, 0, slice(-2, None)]) == (0, 3, 4)
    assert steps(sigma=(0.4, 0.9)) == (1, 2)  # above low, up to high
    assert steps(sigma=(None, 0.4)) == (3, 4)
    assert steps(expert="high") == (0, 1)
    assert steps(expert="low", sigma=(0.3, 1), step=slice(3)) == (2,)


def test_branches() -> None:
    found = select(["blocks.0.hook_resid_post", "latents.*"]).resolve(SPACE)
    assert found.branches == ("cond", "uncond", "guided")
    assert found.branches_of("blocks.0.hook_resid_post") == ("cond", "uncond")
    assert found.branches_of("latents.hook_x0") == ("guided",)
    assert found.branches_of("latents.hook_x0_uncond") == ("uncond",)
    assert "latents.hook_x0_uncond" not in select("latents.*").resolve(BARE).sites
    assert select("**", branch="guided").resolve(SPACE).sites == tuple(
        f"latents.hook_{op}" for op in ("in", "velocity_cfg", "x0", "out")
    )


def test_tokens() -> None:
    def tokens(**said: object) -> tuple[int, ...] | None:
        return select("blocks.0.hook_resid_post", **said).resolve(SPACE).tokens

    every = SPACE.grid.array()
    assert tokens() is None
    assert tokens(tokens=slice(None)) is None or len(tokens(tokens=slice(None))) == 24
    assert tokens(frames=-1) == tuple(every[-1].ravel())
    assert tokens(rows=0, cols=[1, -1]) == tuple(every[:, 0][:, [1, 3]].ravel())
    assert tokens(tokens=[5, -1]) == (5, 23)
    assert tokens(box=(0, 0, 16, 16)) == tuple(every[:, 0, 0])
    assert tokens(box=(0, 15, 15, 17, 17)) == tuple(every[0, :2, :2].ravel())  # frame 0, four tokens touched
    mask = Image.new("L", (64, 32))
    mask.putpixel((63, 31), 255)
    assert tokens(mask=mask) == tuple(every[:, 1, 3])
    assert tokens(mask=np.asarray(mask), frames=1) == (15,)


def test_conditions_leave_out_sites_without_the_axis() -> None:
    assert "blocks.0.attn.hook_gate" in sites("blocks.0.**")
    assert "blocks.0.attn.hook_gate" not in sites(select("blocks.0.**", frames=0))
    assert sites(select("blocks.0.attn.hook_{gate,z}", head=0)) == ("blocks.0.attn.hook_z",)
    assert sites(select("**", layer=1))[0] == "blocks.1.hook_resid_pre"
    per_token = small_space(per_token_time=True)
    assert "blocks.0.attn.hook_gate" in sites(select("blocks.0.**", frames=0), per_token)


def test_union_is_exact_where_it_is_no_product() -> None:
    found = (select("blocks.0.hook_resid_post", step=0) | select("blocks.1.hook_resid_post", step=1, frames=0)).resolve(
        SPACE
    )
    assert found.contains("blocks.0.hook_resid_post", 0, "cond")
    assert not found.contains("blocks.0.hook_resid_post", 1, "cond")
    assert found.tensors == 4
    assert found.steps_of("blocks.1.hook_resid_post") == (1,)
    assert list(found.addresses()) == [
        (f"blocks.{i}.hook_resid_post", i, branch) for i in range(2) for branch in ("cond", "uncond")
    ]
    assert found.tokens is None
    assert found.tokens_of("blocks.1.hook_resid_post") == tuple(range(8))
    assert found.nbytes(4) == 4 * 2 * (24 * 24 + 8 * 24)


def test_rectangles_of_one_tensor() -> None:
    z = "blocks.0.attn.hook_z"
    found = (select(z, frames=0, head=1) | select(z, frames=2, head=0, step=0)).resolve(SPACE)
    first, last = tuple(range(8)), tuple(range(16, 24))
    assert set(found.parts(z, 0, "cond")) == {Part(first, (1,)), Part(last, (0,))}
    assert found.parts(z, 1, "cond") == (Part(first, (1,)),)
    assert found.shape_of(z) == (16, 2, 12)


def test_describe_counts() -> None:
    found = select("blocks.*.hook_resid_post", step=slice(0, 2), branch="cond", frames=slice(1, None)).resolve(SPACE)
    shown = found.describe()
    for words in (
        "blocks.*.hook_resid_post[step=0:2",
        "3 of",
        "0, 1",
        "expert high",
        "16 of 24",
        "frames 1, 2",
        "4.5 KiB",
    ):
        assert words in shown, shown
    assert found.tensors == 6
    assert found.nbytes() == 6 * 16 * 24 * 2


def test_same_said_differently_is_equal() -> None:
    assert select("blocks.*.hook_z".replace("hook_z", "attn.hook_z"), step=[3, 0, 3]) == Selection.parse(
        "blocks.*.attn.hook_z[step={0,3}]"
    )
    a, b = select("blocks.0.hook_resid_post"), select("blocks.1.**", step=0)
    assert a | b == b | a
    assert a & b == b & a
    assert a | a == a
    assert a & (a | b) == a == a | (a & b)
    assert len({a | b, b | a}) == 1
    assert select(["blocks.1.**[step=0]", "blocks.0.hook_resid_post"]) == a | b


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: select("blocks.*.hook_resid_pots"), r"did you mean blocks\.\*\.hook_resid_post"),
    (lambda: select("blocks.7.hook_resid_post").resolve(SPACE), "layer 7 is out of range: the model has 3 layers"),
    (lambda: select("blocks.5:.hook_resid_post").resolve(SPACE), "layer 5: selects nothing: the model has 3 layers"),
    (lambda: select("blocks.*.hook_resid_post", layer=3).resolve(SPACE), "layer 3 is out of range"),
    (lambda: select("hook_velocity", layer=0).resolve(SPACE), "no hook point of this pattern is in such a layer"),
    (lambda: select("blocks.0.hook_resid_post", step=5).resolve(SPACE), "step 5 is out of range: the run has 5 steps"),
    (lambda: select("blocks.0.hook_resid_post", sigma=(1, 2)).resolve(SPACE), "from 1 down to 0.1"),
    (lambda: select("blocks.0.hook_resid_post", sigma=(0.9, 0.8)), "holds no noise level"),
    (lambda: select("blocks.0.hook_resid_post", branch="uncond").resolve(BARE), "set guidance_scale above 1"),
    (lambda: select("latents.hook_velocity_uncond").resolve(BARE), "set guidance_scale above 1"),
    (lambda: select("blocks.0.hook_resid_post", branch="cnd").resolve(SPACE), "did you mean cond"),
    (lambda: select("latents.hook_x0", branch="cond").resolve(SPACE), "is in branch guided only"),
    (lambda: select("blocks.0.hook_resid_post", expert="main").resolve(SPACE), "it has high, low"),
    (lambda: select("blocks.0.hook_resid_post", expert="low", step=0).resolve(SPACE), "runs at none of these steps"),
    (
        lambda: select("blocks.0.hook_resid_post", frames=3).resolve(SPACE),
        "frame 3 is out of range: the grid has 3 frames",
    ),
    (lambda: select("blocks.0.hook_resid_post", tokens=24).resolve(SPACE), "token 24 is out of range"),
    (lambda: select("blocks.0.hook_resid_post", frames=0, tokens=9).resolve(SPACE), "no token in common"),
    (lambda: select("blocks.0.hook_resid_post", box=(0, 0, 40, 8)).resolve(SPACE), "32 x 64 pixels"),
    (lambda: select("blocks.0.hook_resid_post", box=(9, 0, 0, 8, 8)).resolve(SPACE), "pixel frame 9 is out of range"),
    (lambda: select("blocks.0.hook_resid_post", mask=np.ones((8, 8))).resolve(SPACE), "mask of shape"),
    (lambda: select("blocks.0.hook_resid_post", mask=np.zeros((32, 64))), "empty"),
    (lambda: select("blocks.0.attn.hook_z", head=2).resolve(SPACE), "head 2 is out of range: the model has 2 heads"),
    (lambda: select("blocks.0.hook_resid_post", head=0).resolve(SPACE), "has attention heads"),
    (lambda: select("blocks.0.attn.hook_gate", frames=0).resolve(SPACE), "has tokens on the grid"),
    (lambda: select("blocks.0.cross_attn.hook_k_img").resolve(SPACE), "no image encoder"),
    (lambda: select("blocks.0.attn.hook_*_scores").resolve(SPACE), "too big to keep whole"),
    (lambda: (select("blocks.0.**") & "blocks.1.**").resolve(SPACE), "no hook point in common"),
    (lambda: (select("blocks.0.**", step=0) & "[step=1]").resolve(SPACE), "no step in common"),
    (lambda: (select("blocks.0.**", branch="cond") & "[branch=uncond]").resolve(SPACE), "no branch in common"),
    (lambda: (select("blocks.0.**") | select("blocks.1.**", step=9)).resolve(SPACE), "step 9 is out of range"),
    (lambda: select("blocks.*.hook_z"), r"write 'blocks\.\*\*\.hook_z'"),
    (lambda: select("blocks.{layer}.hook_resid_post"), "placeholder"),
    (lambda: select("blocks.0.hook_resid_post", step=1.5), "whole number"),
    (lambda: select("blocks.0.hook_resid_post", step=True), "truth value"),
    (lambda: select("blocks.0.hook_resid_post", step=[]), "empty list"),
    (lambda: select("blocks.0.hook_resid_post", step="0,1"), "in braces"),
    (lambda: select("blocks.0.hook_resid_post", step=slice(0, 4, 0)), "step of 0"),
    (lambda: select("blocks.0.hook_resid_post", tokens=np.ones(24, bool)), "flatnonzero"),
    (lambda: select(), "nothing was selected"),
    (lambda: select([]), "nothing was selected"),
    (lambda: Selection.parse("blocks.0.hook_resid_post[stp=0]"), "did you mean step"),
    (lambda: Selection.parse("blocks.0.hook_resid_post[step=0, step=1]"), "given twice"),
    (lambda: Selection.parse("blocks.0.hook_resid_post["), "does not belong"),
    (lambda: Selection.parse("(blocks.0.hook_resid_post"), "missing"),
    (lambda: Selection.parse("blocks.0.hook_resid_post |"), "missing"),
    (lambda: Selection.parse(""), "missing"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_refusals_say_what_exists(call: Callable[[], object], words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        call()
