"""From names to sites: concrete names, diffusers module paths and TransformerLens short names."""

from __future__ import annotations

import re
from functools import cache
from itertools import groupby

from interp.address.site import Site
from interp.address.table import SITES
from interp.errors import SelectionError, suggest

FAMILIES: frozenset[str] = frozenset({"latents", "embed", "blocks", "head", "image", "vace"})
DEFAULT_FAMILIES: frozenset[str] = FAMILIES - {"image", "vace"}
STACKS = ("blocks", "vace_blocks")

_BY_NAME = {site.name: site for site in SITES}
_PARTS = {"a": "attn", "attn": "attn", "m": "mlp", "mlp": "mlp", "b": "", "block": "", "blocks": "", "resid": ""}
_SHORT = re.compile(r"([a-z0]+(?:_[a-z0]+)*)(\d+)((?:ln|attn|mlp|cross_attn|[abm])\d*)?")


def _aliases() -> dict[str, str]:
    """Alias template to canonical template. A bare module path is its output, unless a site claims it."""
    found = {site.name: site.name for site in SITES}
    hooked = [site for site in SITES if site.tier == "module" and site.module]
    claimed = [(alias, site.name) for site in SITES for alias in site.aliases]
    plain = [s for s in hooked if not s.transform.startswith(("row", "head_row", "rope"))]
    ports = [(f"{site.module}.{site.port}", site.name) for site in plain if site.argument[0] == 0]
    bare = [(site.module, site.name) for site in plain if site.port == "output"]
    for alias, name in [*claimed, *ports, *bare]:
        found.setdefault(alias, name)
    return found


ALIASES: dict[str, str] = _aliases()


def site_named(name: str) -> Site:
    """The site of a concrete name, a template name or an alias.

    Args:
        name: "blocks.3.hook_resid_post", "blocks.{layer}.hook_resid_post" or "blocks.3.attn1.to_out.0".

    Raises:
        SelectionError: no such hook point, with the nearest names.
    """
    template = template_of(name)
    if template is None:
        layer = _layer_said(name) or "{layer}"
        near = [s.name.replace("{layer}", layer) for s in SITES if s.family != "vace" or "vace" in name]
        raise SelectionError(f"there is no hook point {name!r}{suggest(name, near)}")
    return _BY_NAME[template]


@cache
def template_of(name: str) -> str | None:
    """The canonical template of a concrete name, template or alias; None if there is none."""
    return ALIASES.get(name) or ALIASES.get(_digits_to_layer(name))


def canonical_name(name: str) -> str:
    """The canonical concrete name of a concrete name or alias: "blocks.3.attn1.to_out.0" to "blocks.3.attn.hook_z".

    Raises:
        SelectionError: no such hook point.
    """
    layer = _layer_said(name)
    site = site_named(name)
    return site.name if layer is None else site.at(int(layer))


@cache
def concrete_sites(
    layers: int, families: frozenset[str] = DEFAULT_FAMILIES, *, vace_layers: int = 0
) -> tuple[str, ...]:
    """Every hook point of a model, in the order of the computation.

    Args:
        layers: number of blocks.
        families: "latents" (the sampler's), "embed", "blocks", "head", "image" for Wan2.1 models that have an image
            encoder, and "vace" for VACE models.
        vace_layers: number of VACE's control blocks.

    Raises:
        SelectionError: an unknown family.
    """
    unknown = sorted(families - FAMILIES)
    if unknown:
        raise SelectionError(f"there is no site family {unknown[0]!r}; families are {', '.join(sorted(FAMILIES))}")
    chosen = [site for site in SITES if site.family in families]
    counts = {"": 1, "blocks": layers, "vace_blocks": vace_layers}
    found: list[str] = []
    for stack, some in groupby(chosen, key=lambda site: site.stack):
        together = list(some)
        found += [site.at(layer) for layer in range(counts[stack]) for site in together]
    return tuple(found)


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """The full name for a TransformerLens short name.

    Args:
        name: "z", "resid_post", "normalized", "k6", "scale4mlp", or a full name, which comes back as it is.
        layer: the layer, if the site has one.
        layer_type: "attn" ("a"), "cross_attn", "mlp" ("m"), "ln1" ..., where the op alone does not say.

    Raises:
        SelectionError: no such hook point, or a layer that is missing.

    Example:
        ``get_act_name("z", 3, "cross_attn")`` is "blocks.3.cross_attn.hook_z".
    """
    if template_of(name) is not None:
        return canonical_name(name)
    if layer is None and (packed := _SHORT.fullmatch(name)):
        name, layer, layer_type = packed[1], packed[2], packed[3] or layer_type
    part = _PARTS.get(layer_type or "", layer_type or "")
    parts = [part] if layer_type else ["", "attn", "mlp"]
    for candidate in parts:
        template = ".".join(filter(None, ("blocks.{layer}", candidate, f"hook_{name}")))
        if template in _BY_NAME:
            if layer is None:
                raise SelectionError(f"{name!r} exists in every layer; say which, as in get_act_name({name!r}, 3)")
            return template.replace("{layer}", str(layer))
    whole = [site.name for site in SITES if not site.layered and site.name == f"{part or name}.hook_out"]
    if whole and layer is None:
        return whole[0]
    asked = ".".join(filter(None, (part, f"hook_{name}")))
    known = {s.name.removeprefix("blocks.{layer}.") for s in SITES if s.layered}
    raise SelectionError(f"there is no activation {asked!r}{suggest(asked, known)}")


def _layer_said(name: str) -> str | None:
    """The layer of a name, alias or not: "blocks.3" is a module's path."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] in STACKS and parts[1].isdecimal() else None


def _digits_to_layer(name: str) -> str:
    layer = _layer_said(name)
    return name if layer is None else name.replace(f".{layer}", ".{layer}", 1)
