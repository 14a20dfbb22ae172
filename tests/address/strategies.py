"""What can be said of addresses, for hypothesis: arguments of `select`, not selections themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from interp.errors import SelectionError
from interp.selection import AddressSpace, Resolution, Selection, select
from tests.address.naive import LAYERS
from tests.address.spaces import small_space

Said = tuple[str | None, dict[str, Any]]

IN_BLOCKS = [
    "hook_resid_pre",
    "hook_resid_*",
    "hook_*",
    "attn.hook_z",
    "attn.hook_{q,k,z}",
    "{attn,cross_attn}.hook_z",
    "attn.hook_pattern",
    "*.hook_gate",
    "mlp.*",
    "**",
    "attn1.to_out.0",
    "ffn",
]
WHOLE = ["hook_velocity", "latents.*", "latents.hook_x0", "latents.hook_velocity_cond", "time_embed.*", "**"]

positions = st.integers(-6, 8)
slices = st.builds(slice, st.none() | positions, st.none() | positions, st.none() | st.sampled_from([-2, -1, 1, 2, 3]))
picks = positions | slices | st.lists(positions | slices, min_size=1, max_size=3)
patterns = (
    st.builds("blocks.{}.{}".format, st.sampled_from(sorted(LAYERS)), st.sampled_from(IN_BLOCKS))
    | st.sampled_from(WHOLE)
)  # fmt: skip
boxes = st.tuples(st.integers(0, 16), st.integers(0, 40), st.integers(17, 32), st.integers(41, 64))
masks = st.integers(0, 2**16).map(lambda seed: np.random.default_rng(seed).random((32, 64)) < 0.002)
conditions = st.fixed_dictionaries(
    {},
    optional={
        "step": picks,
        "sigma": st.sampled_from([(0.0, 1.0), (0.4, 0.9), (None, 0.7), (0.1, None), (0.39, 0.41)])
        | st.tuples(st.none() | st.floats(), st.none() | st.floats()),
        "branch": st.sampled_from(["cond", "uncond", "guided", ("cond", "guided")]),
        "expert": st.sampled_from(["high", "low", ["high", "low"]]),
        "layer": picks,
        "head": st.sampled_from([0, 1, -1, slice(None)]),
        "frames": picks,
        "rows": picks,
        "cols": picks,
        "tokens": picks,
        "box": boxes | st.tuples(picks, boxes).map(lambda both: (both[0], *both[1])),
        "mask": masks,
    },
)
anything: st.SearchStrategy[Said] = st.tuples(patterns | st.none(), conditions).filter(lambda said: said != (None, {}))

FEW: dict[str, list[Any]] = {
    "step": [0, -1, slice(1, 4), [0, 3]],
    "branch": ["cond", "uncond"],
    "frames": [0, -1, slice(1, None)],
    "cols": [[0, -1], slice(None, None, 2)],
    "head": [0, 1],
    "sigma": [(0.3, 0.95), (None, 0.7), (0.4, None)],
    "expert": ["high", "low"],
    "layer": [0, slice(1, None)],
    "rows": [0, -1],
    "box": [(0, 0, 17, 40), (slice(1, None), 0, 16, 32, 64)],
    "mask": [np.arange(32 * 64).reshape(32, 64) % 7 == 0, np.eye(32, 64, dtype=bool)],
}


@st.composite
def mostly_there(draw: st.DrawFn) -> Said:
    """Arguments of selections most of which resolve, and many of which overlap."""
    axes = draw(st.sets(st.sampled_from(sorted(FEW)), max_size=3))
    return draw(patterns), {axis: draw(st.sampled_from(FEW[axis])) for axis in sorted(axes)}


def selected(said: Said) -> Selection | None:
    """The selection, or None where `select` refuses already."""
    try:
        return select(said[0], **said[1])
    except SelectionError:
        return None


def resolved(selection: Selection, space: AddressSpace) -> Resolution | None:
    """What it resolves to, or None where it is refused."""
    try:
        return selection.resolve(space)
    except SelectionError:
        return None


KEPT = (
    "hook_resid_pre",
    "hook_resid_post",
    "hook_mlp_out",
    "attn.hook_q",
    "attn.hook_z",
    "attn.hook_gate",
    "attn.hook_pattern",
    "cross_attn.hook_z",
    "mlp.hook_in",
    "hook_velocity",
    "time_embed.hook_temb",
    "latents.hook_x0",
    "latents.hook_velocity_cond",
    "latents.hook_velocity_uncond",
)


def thinned(space: AddressSpace) -> AddressSpace:
    """The same space with a third of its sites, for loops over all of it."""
    sites = tuple(
        site for site in space.sites if site.removeprefix("blocks.")[site.startswith("blocks.") * 2 :] in KEPT
    )
    return AddressSpace(
        sites=sites,
        steps=space.steps,
        sigmas=space.sigmas,
        experts=space.experts,
        branches=space.branches,
        grid=space.grid,
        widths={site: space.widths[site] for site in sites},
    )


SPACES = tuple(map(thinned, (small_space(), small_space(guidance=False), small_space(per_token_time=True))))
