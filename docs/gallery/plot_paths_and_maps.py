"""
Paths, circuits and attention maps
==================================

Which way does an effect take? Patch one path, take over an attention map, search for the smallest set of layers.
"""

import matplotlib.pyplot as plt

import interp
from interp import edits, select
from interp.circuits import search
from interp.metrics import Margin
from interp.paths import path_patch

# %%
# Two mazes with different answers, and how far x0_hat of the first step shows the first one's.
lab = interp.load("wan-maze-mini")
task = interp.tasks.get("maze", size=4)
clean, corrupt = (lab.plan(sample, steps=8)[0] for sample in task.pair(seed=3))
margin = Margin(task, clean.sample, tuple(task.answer(run.sample) for run in (clean, corrupt)), early=True)

# %%
# A sender to all that follows, and straight to one layer's queries; then where the other run looks, with own values.
sender, receiver, maps = "blocks.1.attn.hook_z", "blocks.3.attn.hook_q", "blocks.2:5.attn.hook_pattern"
graphs = {"clean": (), "all ways": edits.patch(sender, corrupt, step=0), "its maps": edits.patch(maps, corrupt, step=0)}
values = {name: margin(edits.run_with(lab, clean, graph, stop=1)) for name, graph in graphs.items()}
values["one path"] = margin(path_patch(lab, clean, corrupt, sender, receiver, step=0, stop=1))

# %%
# Faithfulness and completeness of growing sets of layers, and the smallest that keeps 90 % of the answer.
layers = [select("blocks.*.hook_attn_out", layer=layer, step=0) for layer in range(6)]
found = search(lab, clean, corrupt, layers, margin, early=True)
print(found.plot("circuit.png"), *found.smallest(), found.table, sep="\n")
figure, ax = plt.subplots(layout="constrained")
ax.bar(list(values), list(values.values()))
ax.set(ylabel="margin of the clean answer in x0_hat")
figure.savefig("paths.png")
