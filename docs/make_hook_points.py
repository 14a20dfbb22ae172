"""Render the page of hook points from the code: ``python -m docs.make_hook_points``. A test holds both together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interp.grid import TokenGrid
from interp.mini.recipe import Recipe
from interp.mini.text import TEXT_DIM
from interp.sites import SITES, Site, site_shape, sizes_of

_RECIPE = Recipe()
_WAN = {"in_channels": 36, "out_channels": 16, "patch_size": (1, 2, 2), "text_dim": 4096, "freq_dim": 256}
CONFIGS: dict[str, dict[str, Any]] = {
    "A14B": _WAN | {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824},
    "1.3B": _WAN
    | {"in_channels": 16, "num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960},
    "mini": _WAN
    | {
        "num_layers": _RECIPE.layers,
        "num_attention_heads": _RECIPE.width // _RECIPE.head_dim,
        "attention_head_dim": _RECIPE.head_dim,
        "ffn_dim": _RECIPE.ffn,
        "text_dim": TEXT_DIM,
    },
}
TESTS = "tests/tracer/test_hook_points.py"
VIDEOS = {"A14B": (81, 480, 832), "1.3B": (81, 480, 832), "mini": (17, 80, 80)}

FAMILIES = {
    "latents": "The sampler",
    "embed": "Inputs and embeddings",
    "blocks": "In every block",
    "image": "Wan2.1 with an image encoder",
    "head": "The head",
    "vace": "VACE's control blocks",
}
HAVE = {"image": ("A14B",), "vace": ("A14B", "1.3B")}
"""Models shown, for what not every one of them has."""
INTRO = """# Hook points

Every named tensor of a run. `{layer}` is the number of the block; expert, step and branch are axes of an address and no
part of a name. Axes and shapes are without the batch, which always comes first.

Shapes are those of Wan2.2-I2V-A14B and Wan2.1-T2V-1.3B at 832 x 480 pixels and 81 frames, and of the bundled
`wan-maze-mini` at 80 x 80 pixels and 17 frames. Sites that only Wan2.1 models with an image encoder have are shown at
the size of A14B, which is that of Wan2.1-I2V-14B; those of VACE's control blocks at the sizes of A14B and 1.3B, which
are those of its two checkpoints. Where axes are marked † there is a leading `token` axis in TI2V-5B, whose tokens have
a timestep each.

**Read** and **write** say the least that it takes; one word stands for both:

- *module*: a plain hook on the module named after "at", at its input or output.
- *recompute*: exact arithmetic on other sites (to read).
- *processor*: an attention processor in this layer.
- *block*: an instrumented block forward in this layer.
- *sampler*: the step loop has it.
- *no*: it is read only.

Sites marked ‡ are too big to keep whole. A wildcard in the last part of a pattern leaves them out; name them, and keep
some tokens and heads, or a view.

Module paths are accepted as names: `blocks.3.ffn` is its output, `blocks.3.norm2.input` an input, and
`blocks.3.attn1.to_out.0` is `blocks.3.attn.hook_z`. So are TransformerLens's short names:
`get_act_name("z", 3, "cross_attn")`.

The last column names the tests of `tests/tracer/test_hook_points.py` that cover a hook point, each with its name as the
parameter: `test_fires_once[blocks.{layer}.attn.hook_z]`. *test_fires_once* finds it firing exactly once in every step,
branch and expert of every kind of pipeline; *test_is_written* sets it, sees the value in a capture and another video
come out. `tests/tracer/test_reconstruction.py` rebuilds the model from captures alone, and `tests/address/` checks
shapes and budgets on the meta device.

VACE's control blocks are Wan blocks that run before the model's own, over a stream of the control video, and each gives
a hint to one of the model's blocks. What modules give of them is written like the rest; what takes an instrumented
block or attention is read only.
"""


def render() -> str:
    """The page as MyST Markdown."""
    lines = [INTRO]
    for family, title in FAMILIES.items():
        lines += [f"## {title}", "", *_table([site for site in SITES if site.family == family]), ""]
    lines += [
        "Source files: `interp/address/table.py`, `interp/address/reading.py`, `interp/address/recompute.py`, "
        "`docs/make_hook_points.py`.",
        "",
    ]
    return "\n".join(lines)


def shape_in(model: str, site: Site) -> tuple[int, ...] | None:
    """Shape of a site in one of the models shown; None if the model does not have it."""
    config = CONFIGS[model]
    if model not in HAVE.get(site.family, CONFIGS):
        return None
    if site.family == "image":
        config = config | {"image_dim": 1280}
    return site_shape(site, **sizes_of(config, TokenGrid.from_video(*VIDEOS[model])))


def _table(sites: list[Site]) -> list[str]:
    lines = ["| hook point | axes, shapes | read, write | tests |", "|---|---|---|---|"]
    for site in sites:
        name = f"`{site.name}`" + " ‡" * site.heavy
        axes = (", ".join(site.axes) or "none") + " †" * site.per_token_time
        tests = "`test_fires_once`" + ", `test_is_written`" * site.writable
        cells = [
            "<br>".join(filter(None, (name, site.meaning, _where(site)))),
            "<br>".join([axes, *_shapes(site)]),
            site.tier if site.write == site.tier else f"{site.tier}, {site.write}",
            tests,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _where(site: Site) -> str:
    if site.port == "none":
        return ""
    name = f"`{site.module}` " if site.module else "the transformer's "
    return "*at* " + name + site.port + (f" `{site.argument[1]}`" if site.port == "input" and site.argument[0] else "")


def _shapes(site: Site) -> list[str]:
    """A line for each shape, with the models that have it."""
    models: dict[str, list[str]] = {}
    for model in CONFIGS:
        shape = shape_in(model, site)
        if shape is not None:
            models.setdefault("x".join(map(str, shape)) or "one number", []).append(model)
    return [f"{'all' if len(have) == len(CONFIGS) else ', '.join(have)}: {text}" for text, have in models.items()]


if __name__ == "__main__":
    page = Path(__file__).with_name("hook_points.md")
    page.write_text(render())
    print(page)
