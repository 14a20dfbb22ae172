"""
Change the picture, the prompt and x0_hat on the way
====================================================

Another picture or prompt from some step on; x0_hat, velocity or latents replaced between steps.
"""

from dataclasses import replace

import matplotlib.pyplot as plt

import interp
from interp import edits

# %%
# Two mazes with different answers; their pictures differ in one wall.
lab = interp.load("wan-maze-mini")
task = interp.tasks.get("maze", size=4)
clean, corrupt = (lab.plan(sample, steps=8)[0] for sample in task.pair(seed=3))
routes = [task.answer(run.sample) for run in (clean, corrupt)]

# %%
# A source is a run; an edit takes from it what its hook point holds. Steps are slices, or ranges of sigma.
other = replace(clean, sample=replace(clean.sample, prompt="a red square"))
graphs = {"nothing": (), "prompt": edits.prompt(other)}
graphs |= {f"picture, step {k} on": edits.picture(corrupt, step=slice(k, None)) for k in (2, 4)}
graphs["x0_hat at step 2"] = edits.patch("latents.hook_x0", corrupt, step=2)
graphs["half its velocity"] = edits.interpolate("latents.hook_velocity_cfg", corrupt, 0.5, sigma=(None, 0.9))
results = {name: lab.run(clean, edits=graph) for name, graph in graphs.items()}

# %%
# What will happen where, and which edits meet, is known before anything runs.
found = edits.order(lab, clean, graphs["x0_hat at step 2"] | edits.noise("latents.hook_x0", scale=0.1, step=2))
print(edits.draw(found, "order.png"), found, sep="\n")
figure, axes = plt.subplots(1, len(results), figsize=(11, 2.4))
for ax, (name, result) in zip(axes, results.items(), strict=True):
    ax.imshow(result.frames[-1])
    ax.set(xticks=[], yticks=[], title=f"{task.margin(clean.sample, result.frames, routes):.2f}", xlabel=name)
figure.savefig("between_steps.png")
