"""What a hook point is: a named tensor of the model, its axes, and where it is read and written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

Tier = Literal["module", "recompute", "processor", "block", "sampler"]
Write = Literal["module", "processor", "block", "sampler", "no"]
Port = Literal["input", "output", "none"]

GUIDED = "guided"  # the branch label of what exists once a step, not once a pass


@dataclass(frozen=True)
class Site:
    """One hook point, for every layer at once.

    Attributes:
        name: canonical name; ``{layer}`` stands for the layer, as in "blocks.{layer}.attn.hook_z".
        axes: axis names without the batch, in order.
        meaning: what the tensor is, in a few words.
        module: path of the module below the transformer whose hook gives the tensor; "" is the transformer itself.
        port: which side of that module; "none" if no module has it.
        tier: what reading takes. "module": a plain forward hook. "recompute": exact arithmetic on ``sources``.
            "processor": an attention processor. "block": an instrumented block. "sampler": the step loop has it.
        write: the least that writing takes, or "no".
        transform: how the module's raw tensor becomes this one; see `interp.address.reading`.
        argument: position and name of the module's argument, where ``port`` is "input".
        family: which models have it; see `concrete_sites`.
        branch: None if every pass has its own; else the one branch it belongs to ("cond", "uncond", "guided").
        per_token_time: gains a leading token axis where every token has its own timestep (TI2V).
        heavy: too big to keep whole; a wildcard in the last part of a pattern never matches it.
        sources: sites that a "recompute" site is computed from.
        aliases: other names, with ``{layer}``.
    """

    name: str
    axes: tuple[str, ...]
    meaning: str
    module: str = ""
    port: Port = "output"
    tier: Tier = "module"
    write: Write = "module"
    transform: str = ""
    argument: tuple[int, str] = (0, "hidden_states")
    family: str = "blocks"
    branch: str | None = None
    per_token_time: bool = False
    heavy: bool = False
    sources: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def writable(self) -> bool:
        """Whether an edit can set it."""
        return self.write != "no"

    @property
    def layered(self) -> bool:
        """Whether every layer has one."""
        return "{layer}" in self.name

    @property
    def stack(self) -> str:
        """Of what every layer has: the blocks it is in, "blocks" or VACE's "vace_blocks"; else ""."""
        return self.name.split(".")[0] if self.layered else ""

    def at(self, layer: int) -> str:
        """The concrete name in a layer; the name itself if there is one for the whole model."""
        return self.name.replace("{layer}", str(layer))

    def module_at(self, name: str) -> str:
        """The module's path for a concrete name: "blocks.3.attn.hook_z" to "blocks.3.attn1.to_out.0"."""
        layer = layer_of(name)
        return self.module if layer is None else self.module.replace("{layer}", str(layer))

    def meaning_at(self, name: str) -> str:
        """``meaning`` for a concrete name: what else to write is said with its layer."""
        return self.meaning.replace("{layer}", str(layer_of(name)))

    def sources_at(self, name: str) -> tuple[str, ...]:
        """The concrete names of ``sources`` for a concrete name."""
        layer = layer_of(name)
        return self.sources if layer is None else tuple(s.replace("{layer}", str(layer)) for s in self.sources)


@cache
def layer_of(name: str) -> int | None:
    """The layer in a concrete name, or None."""
    parts = name.split(".")
    return int(parts[1]) if len(parts) > 2 and parts[1].isdecimal() else None
