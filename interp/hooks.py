"""Module hooks that know where in the run they fire.

One forward hook a site and transformer, placed for the duration of a ``with`` block and removed in ``finally``. Modules
are found by name each time, never kept, so adapters loaded in between are seen. The step, branch and expert come from the
`Clock`, which the step loop sets around each forward: nothing is counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

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

    Args:
        pipe: a supported pipeline; both experts are hooked.
        sites: concrete names such as "blocks.3.hook_resid_post".
        clock: says which forward is under way.
        emit: receives the live tensor, which it must not change in place. What it returns, if not None, takes the
            tensor's place: same shape, same dtype.

    Raises:
        SelectionError: a site needs more than a module hook.
        InterpError: the transformer is compiled, cached or has fused projections, where hooks would miss silently.
    """
    handles: list[Any] = []
    try:
        for expert in ("main", "low"):
            model = transformer_of(pipe, expert)
            if model is None:
                continue
            check_hookable(model)
            handles += [_attach(model, name, clock, emit) for name in sites]
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


def _attach(model: nn.Module, name: str, clock: Clock, emit: Emit) -> Any:
    site = site_named(name)
    if site.tier != "module" or site.transform not in ("", "heads"):
        raise SelectionError(
            f"{name} cannot be captured yet: it is {site.meaning}, which takes more than a plain module hook"
        )
    module = model.get_submodule(site.module_at(name))

    def report(raw: Tensor) -> Tensor | None:
        if clock.call is None:
            raise InterpError(f"{name} fired outside a traced forward; call the pipeline through the lab")
        value = raw.unflatten(-1, (model.config.num_attention_heads, -1)) if site.transform == "heads" else raw
        new = emit(name, clock.call, value)
        if new is None:
            return None
        if new.shape != value.shape or new.dtype != value.dtype:
            raise InterpError(
                f"{name} is {tuple(value.shape)} of {value.dtype}, but an edit gave {tuple(new.shape)} of {new.dtype}"
            )
        return new.flatten(-2) if site.transform == "heads" else new

    if site.port == "input":
        position, keyword = site.argument

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            new = report(args[position] if len(args) > position else kwargs[keyword])
            if new is None:
                return None
            if len(args) > position:
                return (*args[:position], new, *args[position + 1 :]), kwargs
            return args, {**kwargs, keyword: new}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return report(output)

    return module.register_forward_hook(after)
