"""
Patch one run with another
==========================

Two mazes differ in one wall and have different answers. Do values of one run, put into the other, turn its answer?
"""

import matplotlib.pyplot as plt

import interp
from interp import edits

# %%
# A pair of mazes, one run each, and how far a video shows the first maze's answer rather than the second's (1 to -1).
lab = interp.load("wan-maze-mini")
task = interp.tasks.get("maze", size=4)
clean, corrupt = (lab.plan(sample, steps=8)[0] for sample in task.pair(seed=3))
routes = [task.answer(run.sample) for run in (clean, corrupt)]

# %%
# The source run joins the batch as another world. The receipt says what fired, where, and how much it changed.
once, always = (edits.patch("blocks.2.hook_resid_post", corrupt, step=step) for step in (0, None))
print(lab.run(clean, edits=once).edited)

# %%
# A graph of edits: what whole blocks add. Graphs print, compare, are saved and drawn.
updates = edits.block_update([4, 5], corrupt)
edits.draw(updates, "graph.png")
print(edits.diff(once, updates))

# %%
# The answers, before and after.
graphs = {"clean": (), "stream, step 0": once, "stream": always, "updates 4, 5": updates}
results = {name: lab.run(clean, edits=graph) for name, graph in graphs.items()}
figure, axes = plt.subplots(1, len(results), figsize=(9, 3))
for ax, (name, result) in zip(axes, results.items(), strict=True):
    ax.imshow(result.frames[-1])
    ax.set(title=f"{name}\n{task.margin(clean.sample, result.frames, routes):.2f}", xticks=[], yticks=[])
figure.savefig("patching.png")
