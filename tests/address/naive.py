"""Selections the slow way: for every address there is, ask whether each condition holds.

A set of addresses is a dict from site to a boolean array [step, branch, token, head]; sites without tokens or heads
have one. Written for this folder alone: 3 layers, 2 heads, 3 x 2 x 4 tokens, 9 pixel frames of 32 x 64 pixels.
"""

from __future__ import annotations

import fnmatch
from itertools import product
from typing import Any

import numpy as np

from interp.selection import AddressSpace, Resolution
from interp.sites import site_named

Addresses = dict[str, np.ndarray]

BRANCHES = ("cond", "uncond", "guided")
LAYERS: dict[str, set[int]] = {
    "*": {0, 1, 2},
    "0": {0},
    "2": {2},
    "-1": {2},
    "1:": {1, 2},
    "0:2": {0, 1},
    "::2": {0, 2},
    "{0,2}": {0, 2},
    "{-1,0:1}": {0, 2},
}
ALIASES = {"attn1.to_out.0": "attn.hook_z", "ffn": "hook_mlp_out"}
ON_TOKENS = {"frames", "rows", "cols", "tokens", "box", "mask"}


def naive(pattern: str | None, said: dict[str, Any], space: AddressSpace) -> Addresses:
    """The addresses that hold every condition."""
    found = {}
    for site in space.sites:
        axes = space.axes_of(site)
        if pattern is not None and not name_fits(pattern, site):
            continue
        if (ON_TOKENS & set(said) and "token" not in axes) or ("head" in said and "head" not in axes):
            continue
        if "layer" in said and not (site.startswith("blocks.") and picked(said["layer"], int(site.split(".")[1]), 3)):
            continue
        steps = [step_fits(said, step, space) for step in range(space.steps)]
        branches = [branch_fits(said, branch, site, space) for branch in BRANCHES]
        tokens = [token_fits(said, token) for token in range(24)] if "token" in axes else [True]
        heads = [picked(said.get("head", slice(None)), head, 2) for head in range(2)] if "head" in axes else [True]
        array = np.zeros((len(steps), 3, len(tokens), len(heads)), bool)
        for index in product(*map(range, array.shape)):
            step, branch, token, head = index
            array[index] = steps[step] and branches[branch] and tokens[token] and heads[head]
        if array.any():
            found[site] = array
    return found


def spelled_out(resolution: Resolution) -> Addresses:
    """What a resolution says, through its public methods."""
    found = {}
    for site in resolution.sites:
        axes = resolution.space.axes_of(site)
        shape = (resolution.space.steps, 3, 24 if "token" in axes else 1, 2 if "head" in axes else 1)
        found[site] = np.zeros(shape, bool)
    for site, step, branch in resolution.addresses():
        for part in resolution.parts(site, step, branch):
            tokens = slice(None) if part.tokens is None else list(part.tokens)
            heads = slice(None) if part.heads is None else list(part.heads)
            chosen = np.zeros(found[site].shape[2:], bool)
            chosen[tokens] = True
            allowed = np.zeros(found[site].shape[3:], bool)
            allowed[heads] = True
            found[site][step, BRANCHES.index(branch)] |= chosen & allowed
    return found


def same(a: Addresses, b: Addresses) -> bool:
    """Whether two sets are equal."""
    return a.keys() == b.keys() and all(np.array_equal(a[site], b[site]) for site in a)


def union(a: Addresses, b: Addresses) -> Addresses:
    """Addresses in either."""
    return {**a, **b, **{site: a[site] | b[site] for site in a.keys() & b.keys()}}


def intersection(a: Addresses, b: Addresses) -> Addresses:
    """Addresses in both."""
    both = {site: a[site] & b[site] for site in a.keys() & b.keys()}
    return {site: array for site, array in both.items() if array.any()}


def picked(said: Any, position: int, size: int) -> bool:
    """Whether an int, a slice or a list of them picks a position."""
    if isinstance(said, slice):
        return position in range(size)[said]
    if isinstance(said, int):
        return said in (position, position - size)
    return any(picked(one, position, size) for one in said)


def step_fits(said: dict[str, Any], step: int, space: AddressSpace) -> bool:
    low, high = said.get("sigma", (None, None))
    sigma, expert = space.sigmas[step], said.get("expert", space.experts[step])
    return (
        picked(said.get("step", slice(None)), step, space.steps)
        and (low is None or sigma > low)
        and (high is None or sigma <= high)
        and space.experts[step] in ([expert] if isinstance(expert, str) else expert)
    )


def branch_fits(said: dict[str, Any], branch: str, site: str, space: AddressSpace) -> bool:
    own = site_named(site).branch
    exists = branch in space.branches if own is None else branch == own and branch in (*space.branches, "guided")
    asked = said.get("branch", BRANCHES)
    return exists and branch in ((asked,) if isinstance(asked, str) else asked)


def token_fits(said: dict[str, Any], token: int) -> bool:
    """A token is 16 x 16 pixels, of 9 frames 0 | 1-4 | 5-8."""
    frame, row, col = token // 8, token // 4 % 2, token % 4
    for axis, position, size in (("frames", frame, 3), ("rows", row, 2), ("cols", col, 4), ("tokens", token, 24)):
        if not picked(said.get(axis, slice(None)), position, size):
            return False
    if "mask" in said and not said["mask"][row * 16 : row * 16 + 16, col * 16 : col * 16 + 16].any():
        return False
    if "box" in said:
        *frames, top, left, bottom, right = said["box"]
        mine = [[0], [1, 2, 3, 4], [5, 6, 7, 8]][frame]
        if frames and not any(picked(frames[0], f, 9) for f in mine):
            return False
        return top < row * 16 + 16 and row * 16 < bottom and left < col * 16 + 16 and col * 16 < right
    return True


def name_fits(pattern: str, name: str) -> bool:
    """A pattern of this folder against a name, part by part."""
    for alias, meant in ALIASES.items():
        if pattern.endswith(f".{alias}"):
            pattern = pattern.removesuffix(alias) + meant
    asked, parts = pattern.split("."), name.split(".")
    if asked[0] == "blocks" and parts[0] == "blocks":
        if int(parts[1]) not in LAYERS[asked.pop(1)]:
            return False
        parts.pop(1)
    if "*" in asked[-1] and any(word in name for word in ("pattern", "scores", "result")):
        return False
    if asked[-1] == "**":
        asked = asked[:-1]
        return len(parts) > len(asked) and all(map(part_fits, asked, parts))
    return len(parts) == len(asked) and all(map(part_fits, asked, parts))


def part_fits(asked: str, part: str) -> bool:
    before, _, rest = asked.partition("{")
    inside, _, after = rest.partition("}")
    return any(fnmatch.fnmatchcase(part, before + word + after) for word in inside.split(","))
