"""Module hooks that know where in the run they fire.

One forward hook a site and transformer, placed for the duration of a ``with`` block and removed in ``finally``.
Modules are found by name each time, never kept, so adapters loaded in between are seen. The step, branch and expert
come from the `Clock`, which the step loop sets around each forward: nothing is counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from interp.address.reading import pick, put, raw_of, value_of
from interp.address.recompute import recompute
from interp.errors import InterpError, SelectionError
from interp.sampler import Call, transformer_of
from interp.sites import site_named

Emit = Callable[[str, Call, Tensor], Tensor | None]


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
def tapped(pipe: Any, sites: Sequence[str], clock: Clock, emit: Emit) -> Iterator[None]:
    """Call ``emit(site, call, tensor)`` whenever a site fires inside the block; tensors are [batch, <site axes>].

    Sites that no module gives (rotated q and k, patterns, gated updates) are computed from ones that modules give and
    are read-only.

    Args:
        pipe: a supported pipeline; both experts are hooked.
        sites: concrete names such as "blocks.3.hook_resid_post".
        clock: says which forward is under way.
        emit: receives the live tensor, which it must not change in place. What it returns, if not None, takes the
            tensor's place: same shape, same dtype.

    Raises:
        SelectionError: a site is the sampler's own, which no hook on the transformer can give.
        InterpError: the transformer is compiled, cached or has fused projections, where hooks would miss silently.
    """
    handles: list[Any] = []
    try:
        for expert in ("main", "low"):
            model = transformer_of(pipe, expert)
            if model is None:
                continue
            check_hookable(model)
            handles += _attach_all(model, sites, clock, emit)
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_hookable(model: nn.Module) -> None:
    """Refuse what would make module hooks miss without an error.

    Raises:
        InterpError: naming the feature and how to switch it off.
    """
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise InterpError(
            "the transformer is compiled, and hooks added after compilation never fire; "
            "trace the module it was compiled from"
        )
    if getattr(model, "is_cache_enabled", False):
        raise InterpError(
            "a feature cache is enabled, so blocks are skipped in some steps; call transformer.disable_cache() first"
        )
    for name, module in model.named_modules():
        if getattr(module, "fused_projections", False):
            raise InterpError(
                f"{name} has fused projections, so hooks on q, k and v never fire; "
                "call transformer.unfuse_qkv_projections() first"
            )
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise InterpError(f"{name} is compiled, so hooks inside it never fire; trace the uncompiled model")


def _attach_all(model: nn.Module, sites: Sequence[str], clock: Clock, emit: Emit) -> list[Any]:
    """Hooks for module-tier sites, and for the sources of those that are recomputed."""
    direct: list[str] = []
    derived: list[str] = []
    for name in sites:
        tier = site_named(name).tier
        if tier not in ("module", "recompute"):
            raise SelectionError(f"{name} belongs to the sampler; hooks on the transformer cannot give it")
        (derived if tier == "recompute" else direct).append(name)
    handles = [_attach(model, name, clock, emit) for name in direct]
    if derived:
        gatherer = _Gatherer(model, derived, emit)
        handles += [_attach(model, name, clock, gatherer.take) for name in gatherer.sources]
    return handles


class _Gatherer:
    """Collects the sources of recomputed sites and emits each as soon as its last source has fired."""

    def __init__(self, model: nn.Module, names: Sequence[str], emit: Emit) -> None:
        self.model, self.emit = model, emit
        self.wants = {name: frozenset(site_named(name).sources_at(name)) for name in names}
        # A recomputed site may be a source itself (scores come from rotated queries); go down to modules.
        self.order = list(dict.fromkeys(part for name in names for part in self._down(name)))
        self.sources = [name for name in self.order if site_named(name).tier == "module"]
        self.call: Call | None = None
        self.values: dict[str, Tensor] = {}
        self.left: list[str] = []

    def _down(self, name: str) -> Iterator[str]:
        for source in site_named(name).sources_at(name):
            yield from self._down(source)
        yield name

    def take(self, source: str, call: Call, tensor: Tensor) -> None:
        """A source fired."""
        if call is not self.call:
            self.call, self.values = call, {}
            self.left = [name for name in self.order if site_named(name).tier == "recompute"]
        self.values[source] = tensor
        for name in list(self.left):
            needed = site_named(name).sources_at(name)
            if all(part in self.values for part in needed):
                self.left.remove(name)
                value = recompute(name, self.values, self.model)
                self.values[name] = value
                if name in self.wants and self.emit(name, call, value) is not None:
                    raise InterpError(f"{name} is computed from other tensors and cannot be replaced by a module hook")
        self._forget()

    def _forget(self) -> None:
        """Drop tensors that nothing still waits for."""
        waited = {part for name in self.left for part in site_named(name).sources_at(name)}
        self.values = {name: value for name, value in self.values.items() if name in waited}


def _attach(model: nn.Module, name: str, clock: Clock, emit: Emit) -> Any:
    site = site_named(name)
    module = model.get_submodule(site.module_at(name))

    def report(raw: Any) -> Any:
        """The raw tensor's replacement, or None."""
        if clock.call is None:
            raise InterpError(f"{name} fired outside a traced forward; call the pipeline through the lab")
        value = value_of(site, raw, module, model)
        new = emit(name, clock.call, value)
        if new is None:
            return None
        if new.shape != value.shape or new.dtype != value.dtype:
            raise InterpError(
                f"{name} is {tuple(value.shape)} of {value.dtype}, but an edit gave {tuple(new.shape)} of {new.dtype}"
            )
        return raw_of(site, new, raw, module)

    if site.port == "input":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            new = report(pick(site, args, kwargs))
            return None if new is None else put(site, new, args, kwargs)

        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(lambda _, args, output: report(output))
