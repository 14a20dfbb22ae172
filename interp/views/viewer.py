"""From live tensors to views of them: pick what is selected, compute each view as soon as its sources are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from interp.address.resolution import Part, Resolution
from interp.sampler import Call
from interp.sites import site_named
from interp.tasks.sample import Sample
from interp.views.plan import Output, ViewPlan
from interp.views.view import Compute

Keep = Callable[[Output, int, str, Tensor], None]


class Viewer:
    """Takes every hooked tensor of a batch and hands on views of what is selected.

    Args:
        plan: what is selected, and its views.
        samples: the problems of the rows, for views that depend on them.
        keep: gets (output, step, branch, [batch, <axes of the view>]), on the tensor's device.
    """

    def __init__(self, plan: ViewPlan, samples: Sequence[Sample], keep: Keep) -> None:
        self.plan, self.resolution, self.keep = plan, plan.resolution, keep
        sites = self.resolution.sites
        self._picks = {site: _picks(self.resolution, site) for site in sites if not site_named(site).heavy}
        self._of_sampler = [s for s in self.resolution.sites if site_named(s).tier == "sampler"]
        self._direct: dict[str, list[_Taker]] = {}
        self._gathered: dict[str, list[_Taker]] = {}
        for output in plan.outputs:
            taker = _Taker(output, output.view.computer(output.given, samples))
            by_source = self._direct if output.made.sources == (output.site,) else self._gathered
            for source in output.made.sources:
                by_source.setdefault(source, []).append(taker)

    @property
    def hooked(self) -> list[str]:
        """Sites that hooks on the transformer have to deliver, those too big to keep whole as `parts` says."""
        return [site for site in (self._direct | self._gathered) if site not in self._of_sampler]

    @property
    def parts(self) -> dict[str, Part]:
        """Of sites too big to keep whole, the part that is selected: they come as that part."""
        whole = self.resolution
        return {
            site: Part(whole.tokens_of(site), whole.heads_of(site)) for site in whole.sites if site not in self._picks
        }

    @property
    def of_sampler(self) -> list[str]:
        """Selected sites that the step loop has to deliver."""
        return list(self._of_sampler)

    def wanted(self, site: str, call: Call) -> bool:
        """Whether a hooked site is needed in a forward."""
        takers = (*self._direct.get(site, ()), *self._gathered.get(site, ()))
        return any(self.resolution.contains(taker.output.site, call.step, call.branch) for taker in takers)

    def on_site(self, site: str, call: Call, tensor: Tensor) -> None:
        """A hook fired: tensor [batch, <site axes>]."""
        if site in self._direct and self.resolution.contains(site, call.step, call.branch):
            self.on_tensor(site, call.step, call.branch, tensor)
        for taker in self._gathered.get(site, ()):
            if self.resolution.contains(taker.output.site, call.step, call.branch):
                made = taker.gather(site, call, tensor)
                if made is not None:
                    self.keep(taker.output, call.step, call.branch, made)

    def on_tensor(self, site: str, step: int, branch: str, tensor: Tensor) -> None:
        """A selected tensor: take every view that computes from this one alone."""
        for dimension, positions in self._picks.get(site, ()):
            tensor = tensor.index_select(dimension, positions.to(tensor.device))
        for taker in self._direct[site]:
            self.keep(taker.output, step, branch, taker.compute(tensor))


def _picks(resolution: Resolution, site: str) -> tuple[tuple[int, Tensor], ...]:
    """What is selected of [batch, <site axes>]: (dimension, positions)."""
    axes = resolution.space.axes_of(site)
    chosen = {"token": resolution.tokens_of(site), "head": resolution.heads_of(site)}
    return tuple((1 + axes.index(axis), torch.tensor(at)) for axis, at in chosen.items() if at is not None)


@dataclass
class _Taker:
    """One view of one site, and what it still waits for."""

    output: Output
    compute: Compute
    call: Call | None = None
    waiting: dict[str, Tensor] = field(default_factory=dict)

    def gather(self, source: str, call: Call, tensor: Tensor) -> Tensor | None:
        """Take one source; the view once all have come in the same forward."""
        if call is not self.call:
            self.call, self.waiting = call, {}
        self.waiting[source] = tensor
        sources = self.output.made.sources
        if len(self.waiting) < len(sources):
            return None
        given = [self.waiting[name] for name in sources]
        self.waiting = {}
        return self.compute(*given)
