"""
Sweep patches, and guess them from a gradient
=============================================

Try a patch at every step and layer, with placebos; then estimate the same effects from two forwards and one backward.
"""

import interp
from interp import edits
from interp.attribution import attribute
from interp.circuits import search
from interp.metrics import Margin
from interp.replay import record
from interp.sweep import sweep

# %%
# Two mazes with different answers, and how far x0_hat shows the first one's.
lab = interp.load("wan-maze-mini")
task = interp.tasks.get("maze", size=4)
clean, corrupt = (lab.plan(sample, steps=8)[0] for sample in task.pair(seed=3))
margin = Margin(task, clean.sample, tuple(task.answer(run.sample) for run in (clean, corrupt)), early=True)

# %%
# One row a cell: effect, placebos (as large, in random directions) and a p-value.
where = "blocks.*.hook_mlp_out"
found = sweep(
    lab, clean, edits.patch(where, corrupt), {"step": [0, 2, 4], "layer": range(6)}, margin, early=True, placebos=3
)
print(found.table)
found.plot("sweep.png")

# %%
# The same at one step to first order, for every token; the metric has to be differentiable.
one, two = record(lab, clean), record(lab, corrupt)
way = two.steps[0].x0_hat - one.steps[0].x0_hat
guess = attribute(lab, one, two, where, lambda x0_hat: (x0_hat * way).sum(), step=0)
print(guess.table)
layers = [interp.select(where, layer=layer, step=0) for layer in range(6)]
print(search(lab, one, corrupt, layers, margin, early=True, order=guess.table["effect"].to_list()).table)
