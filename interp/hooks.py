"""Module hooks that know where in the run they fire.

One forward hook a site and transformer, placed for the duration of a ``with`` block and removed in ``finally``.
Modules are found by name each time, never kept, so adapters loaded in between are seen. The step, branch and expert
come from the `Clock`, which the step loop sets around each forward: nothing is counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp.address.reading import pick, put, raw_of, value_of
from interp.address.resolution import Part
from interp.errors import InterpError, SelectionError
from interp.gatherer import Emit, Gatherer, Wanted
from interp.modules import modules_of
from interp.sampler import Call, transformer_of
from interp.sites import site_named

Feed = Callable[[str, Call, Tensor], None]


@dataclass
class Clock:
    """Where the run is: the forward that is under way, or None between forwards."""

    call: Call | None = None

    @contextlib.contextmanager
    def enter(self, call: Call) -> Iterator[None]:
        """Mark one forward; given to the sampler as ``on_call``."""
        self.call = call
        try:
            yield
        finally:
            self.call = None


@contextlib.contextmanager
def tapped(
    pipe: Any,
    sites: Sequence[str],
    clock: Clock,
    emit: Emit,
    *,
    wanted: Wanted | None = None,
    parts: Mapping[str, Part] | None = None,
    fed: Collection[str] = (),
    detached: bool = False,
) -> Iterator[Feed]:
    """Call ``emit(site, call, tensor)`` whenever a site fires inside the block; tensors are [batch, <site axes>].

    Sites that no module gives (rotated q and k, patterns, gated updates) are computed from ones that modules give and
    are read-only.

    Args:
        pipe: a supported pipeline; both experts are hooked.
        sites: concrete names such as "blocks.3.hook_resid_post".
        clock: says which forward is under way.
        emit: receives the live tensor, which it must not change in place. What it returns, if not None, takes the
            tensor's place: same shape, same dtype.
        wanted, parts, fed: of recomputed sites, see `interp.gatherer.Gatherer`.
        detached: keep what is computed here out of gradients. With gradient checkpointing it has to be: the block is
            computed again without it.

    Yields:
        A function ``feed(site, call, tensor)`` for the sites in ``fed``.

    Raises:
        SelectionError: a site is the sampler's own, which no hook on the transformer can give.
        InterpError: the transformer is compiled, cached, sharded or has fused projections, where hooks would miss
            silently, or a hooked module was replaced meanwhile.
    """
    direct, derived = _by_tier(sites)
    handles: list[Any] = []
    gatherers: dict[bool, Gatherer] = {}
    placed: list[tuple[nn.Module, dict[str, nn.Module]]] = []

    def feed(site: str, call: Call, tensor: Tensor) -> None:
        gatherers[call.expert == "low"].take(site, call, tensor)

    try:
        for expert in ("main", "low"):
            model = transformer_of(pipe, expert)
            if model is None:
                continue
            modules = modules_of(model)
            _check_hookable(model, modules)
            handles += [_Tap(model, modules, name, clock, emit, detached).attach() for name in direct]
            gatherer = Gatherer(model, derived, emit, wanted=wanted, parts=parts, fed=fed)
            handles += [
                _Tap(model, modules, name, clock, gatherer.take, detached).attach() for name in gatherer.sources
            ]
            gatherers[expert == "low"] = gatherer
            paths = {site_named(name).module_at(name) for name in (*direct, *gatherer.sources)}
            placed.append((model, {path: modules[path] for path in paths}))
        yield feed
        for model, modules in placed:
            _check_still_there(model, modules)
    finally:
        for handle in handles:
            handle.remove()


_SHARDED = (
    "the sequence is sharded over devices, so a hook sees only a part of the tokens; trace on one device, with data "
    "parallel runs over the others"
)
_IN_THE_WAY = {
    "a feature cache is enabled, so blocks are skipped in some steps; call transformer.disable_cache() first": (
        "faster_cache first_block_cache mag_cache pyramid_attention_broadcast sea_cache taylorseer_cache text_kv_cache"
    ),
    "layers are skipped or changed by a guider in some passes; use a guider without skipped layers": (
        "layer_skip smoothed_energy_guidance_utils"
    ),
    _SHARDED: "context_parallel tensor_parallel tensor_parallel_neuron",
}
"""Why not, and the modules of ``diffusers.hooks`` whose hooks do it."""
_TELLTALE = ("processor", "_diffusers_hook", "fused_projections", "_compiled_call_impl")
"""Attributes of a module that may hold something of the kind."""


def check_hookable(model: nn.Module) -> None:
    """Refuse what would make module hooks miss, or see half a tensor, without an error.

    Raises:
        InterpError: naming the feature and how to switch it off.
    """
    _check_hookable(model, modules_of(model))


def _check_hookable(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise InterpError(
            "the transformer is compiled, and hooks added after compilation never fire; "
            "trace the module it was compiled from"
        )
    if getattr(model, "is_cache_enabled", False):
        raise InterpError(next(iter(_IN_THE_WAY)))
    for name, module in modules.items():
        own = vars(module)  # a module's own getattr is slow to say no
        if own.keys().isdisjoint(_TELLTALE) and "processor" not in own["_modules"]:
            continue
        if getattr(own.get("processor") or module._modules.get("processor"), "_parallel_config", None) is not None:
            raise InterpError(_SHARDED)
        registry = own.get("_diffusers_hook")
        for hook in registry.hooks.values() if registry is not None else ():
            for why, homes in _IN_THE_WAY.items():
                if type(hook).__module__.rsplit(".", 1)[-1] in homes.split():
                    raise InterpError(why)
        if own.get("fused_projections"):
            raise InterpError(
                f"{name} has fused projections, so hooks on q, k and v never fire; "
                "call transformer.unfuse_qkv_projections() first"
            )
        if own.get("_compiled_call_impl") is not None:
            raise InterpError(f"{name} is compiled, so hooks inside it never fire; trace the uncompiled model")


def _by_tier(sites: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sites that modules give, and those that are recomputed."""
    direct: list[str] = []
    derived: list[str] = []
    for name in sites:
        tier = site_named(name).tier
        if tier not in ("module", "recompute"):
            raise SelectionError(f"{name} belongs to the sampler; hooks on the transformer cannot give it")
        (derived if tier == "recompute" else direct).append(name)
    return direct, derived


def _check_still_there(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    now = modules_of(model)
    _check_hookable(model, now)
    for path, module in modules.items():
        if now.get(path) is not module:
            raise InterpError(
                f"{path} was replaced while hooks were attached (a LoRA loaded in a callback?), so what was seen of it "
                "is not what ran; load first, then trace"
            )


class _Tap:
    """A hook at one site of one transformer."""

    def __init__(
        self, model: nn.Module, modules: Mapping[str, nn.Module], name: str, clock: Clock, emit: Emit, detached: bool
    ) -> None:
        self.name, self.site = name, site_named(name)
        self.model, self.module = model, modules[self.site.module_at(name)]
        self.clock, self.emit, self.detached = clock, emit, detached

    def attach(self) -> Any:
        """Place it; returns the handle that takes it off again."""
        if self.site.port == "input":
            return self.module.register_forward_pre_hook(self.before, with_kwargs=True)
        return self.module.register_forward_hook(self.after)

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The module is called: the call it should have in the place of this one, or None."""
        new = self.report(pick(self.site, args, kwargs))
        return None if new is None else put(self.site, new, args, kwargs)

    def after(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The module returned: what it should have returned, or None."""
        return self.report(output)

    def report(self, raw: Any) -> Any:
        """The raw tensor's replacement, or None."""
        if self.detached and torch.is_grad_enabled():
            with torch.no_grad():
                return self.report(raw)
        call, name = self.clock.call, self.name
        if call is None:
            if torch._C._current_graph_task_id() != -1:
                return None  # gradient checkpointing computes the block again, in the backward pass
            raise InterpError(f"{name} fired outside a traced forward; call the pipeline through the lab")
        value = value_of(self.site, raw, self.module, self.model)
        new = self.emit(name, call, value)
        if new is None:
            return None
        if new.shape != value.shape or new.dtype != value.dtype:
            raise InterpError(
                f"{name} is {tuple(value.shape)} of {value.dtype}, but an edit gave {tuple(new.shape)} of {new.dtype}"
            )
        return raw_of(self.site, new, raw, self.module)


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute on one instance for the length of the block."""
    had, original = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
