"""Interventions as data: an edit is (selection, operation, sources); edits compose with ``|`` into a graph.

Example:
    ``lab.run(run, edits=patch("blocks.5.hook_resid_post", corrupt, step=0) | noise(step=6, kind="renoise"))``
"""

from __future__ import annotations

from interp.edits.compare import GraphDiff, diff, draw
from interp.edits.curve import Curve, curve
from interp.edits.files import load, save
from interp.edits.graph import Edit, EditGraph
from interp.edits.make import (
    add,
    block_update,
    clamp,
    erase,
    function,
    interpolate,
    knockout,
    mean,
    mean_over_worlds,
    noise,
    patch,
    picture,
    project_out,
    prompt,
    random_change,
    resample,
    scale,
    set_to,
    swap,
    use_expert,
    wire,
    zero,
)
from interp.edits.order import Order, Overlap, order
from interp.edits.receipt import EditReceipt, Fired
from interp.edits.run import EditedRun, run_with
from interp.edits.sources import Constant, FromStore, OtherRun, Stored, World

__all__ = [
    "Constant",
    "Curve",
    "Edit",
    "EditGraph",
    "EditReceipt",
    "EditedRun",
    "Fired",
    "FromStore",
    "GraphDiff",
    "Order",
    "OtherRun",
    "Overlap",
    "Stored",
    "World",
    "add",
    "block_update",
    "clamp",
    "curve",
    "diff",
    "draw",
    "erase",
    "function",
    "interpolate",
    "knockout",
    "load",
    "mean",
    "mean_over_worlds",
    "noise",
    "order",
    "patch",
    "picture",
    "project_out",
    "prompt",
    "random_change",
    "resample",
    "run_with",
    "save",
    "scale",
    "set_to",
    "swap",
    "use_expert",
    "wire",
    "zero",
]
