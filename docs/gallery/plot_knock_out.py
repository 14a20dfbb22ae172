"""
Knock attention out
===================

Does the last frame need to see the first one? Close the way from its queries to those keys, before the softmax.
"""

import matplotlib.pyplot as plt

import interp
from interp import edits, select

# %%
# A run, and what it draws.
lab = interp.load("wan-maze-mini")
task = interp.tasks.get("maze", size=4)
run = lab.plan(task.sample(1, seed=0), steps=8)[0]

# %%
# Keys are tokens of the grid, or numbers (of text tokens, in cross-attention). Heads, steps and branches narrow it.
ways = {
    "nothing": edits.knockout("blocks.*.attn", keys=()),
    "last frame sees not the first": edits.knockout("blocks.*.attn", select(frames=0), frames=-1),
    "the same, head 0 only": edits.knockout("blocks.*.attn", select(frames=0), frames=-1, head=0),
    "the same, after step 3": edits.knockout("blocks.*.attn", select(frames=0), frames=-1, step=slice(4, None)),
}
results = {name: lab.run(run, edits=edit) for name, edit in ways.items()}
print(results["the same, head 0 only"].edited)

# %%
# The last frame of each.
figure, axes = plt.subplots(1, len(ways), figsize=(10, 3))
for ax, (name, result) in zip(axes, results.items(), strict=True):
    ax.imshow(result.frames[-1])
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"{name}\nsolved: {task.score(run.sample, result.frames).solved}", fontsize=7)
figure.savefig("knock_out.png")
