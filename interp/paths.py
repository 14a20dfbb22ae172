"""Path patching: how much of an effect goes straight from senders to receivers.

Four worlds share one batch: the clean run (which receives), a helper, the source, and the clean run once more as a
reference that nothing touches. In the helper, every attention and MLP output is held at the reference's, except the
senders, which are the source's: what reaches its receivers came from the senders along the residual stream alone. The
clean run then gets the helper's receivers (Goldowsky-Dill et al., "Localizing Model Behavior with Path Patching",
2023). It is one edit graph, so it is saved, replayed and receipted like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from interp.edits.graph import EditGraph
from interp.edits.make import patch
from interp.edits.run import EditedRun, run_with
from interp.errors import InterpError, SelectionError
from interp.runspec import RunSpec
from interp.selection import Selection, select

if TYPE_CHECKING:
    from interp.lab import Lab

HELD = "blocks.*.{attn,cross_attn}.hook_z | blocks.*.hook_mlp_out"
SENDERS = (
    "hook_z",
    "hook_result",
    "hook_attn_out",
    "hook_cross_attn_out",
    "hook_mlp_out",
    "hook_attn_update",
    "hook_mlp_update",
)

Sites = str | Selection | Sequence[str | Selection]


def path_graph(
    senders: Sites, receivers: Sites, source: Any, clean: RunSpec, step: Any, branch: Any = None
) -> EditGraph:
    """The graph over worlds 0 (clean, which receives) and 1 (the helper); both are the clean run.

    Args:
        senders: what is sent: outputs of attention, of single heads, or of MLPs.
        receivers: where it is received; any writable hook point.
        source: a run or a sample that senders are taken from.
        clean: the clean run, once more, as the reference.
        step: of all of it.
        branch: "cond" or "uncond"; both if None.
    """
    at = {"step": step} | ({} if branch is None else {"branch": branch})
    return (
        patch("latents.hook_in", clean, rows=1, step=step)
        | patch(HELD, clean, rows=1, **at)
        | patch(senders, source, rows=1, **at)
        | patch(receivers, 1, rows=0, **at)
    )


def path_patch(
    lab: Lab,
    clean: RunSpec,
    source: Any,
    senders: Sites,
    receivers: Sites,
    *,
    step: Any,
    branch: Any = None,
    capture: Any = None,
    stop: int | None = None,
) -> EditedRun:
    """Patch the paths that go straight from senders to receivers.

    Args:
        lab: the pipeline.
        clean: the run that is patched.
        source, senders, receivers, step, branch: see `path_graph`.
        capture, stop: see `interp.edits.run_with`.

    Returns:
        The patched clean run.

    Raises:
        SelectionError: senders that are not outputs of attention or MLPs, or no receiver after a sender.
        InterpError: a source that is no run.
    """
    space = lab.space(clean)
    sent, received = (select(one, step=step).resolve(space) for one in (senders, receivers))
    for site in sent.sites:
        if not site.endswith(SENDERS):
            raise SelectionError(f"senders: {site} is no output of attention or an MLP; they are {', '.join(SENDERS)}")
    order = {site: i for i, site in enumerate(space.sites)}
    first = sent.sites[0]
    if all(order[site] < order[first] for site in received.sites):
        raise SelectionError(f"receivers: none comes after the first sender, {first}")
    if isinstance(source, int):
        raise InterpError("source: give the run or sample that senders are taken from, not a world")
    graph = path_graph(senders, receivers, source, clean, step, branch)
    return run_with(lab, [clean, clean], graph, capture, stop=stop)[0]


__all__ = ["path_graph", "path_patch"]
