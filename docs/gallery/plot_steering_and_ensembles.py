"""
Steer, and let seeds vote
=========================

Add a direction that fades in over the steps, and average the hidden states of three seeds at the first step.
"""

import matplotlib.pyplot as plt

import interp
from interp import edits

# %%
# Two mazes with different answers; the direction is the difference of their runs where it is added.
lab = interp.load("wan-maze-mini")
task = interp.tasks.get("maze", size=4)
clean, corrupt = (lab.plan(sample, steps=8)[0] for sample in task.pair(seed=3))
routes = [task.answer(run.sample) for run in (clean, corrupt)]
site = "blocks.3.hook_resid_post"
one, two = (edits.run_with(lab, run, (), site).captured[site][0, 0] for run in (clean, corrupt))

# %%
# A strength may be a curve over steps (or over sigma).
margins = []
for strength in (0.0, 0.5, 1.0, 2.0):
    result = lab.run(clean, edits=edits.add(site, two - one, edits.curve({0: strength, 4: 0.0})))
    margins.append(task.margin(clean.sample, result.frames, routes))

# %%
# Three seeds become worlds of one batch. A mean shrinks what it averages; ``match="norm"`` gives the length back.
runs = lab.plan(clean.sample, seeds=3, steps=8)
ensemble = edits.mean_over_worlds("blocks.2:4.hook_resid_post", step=0, match="norm")
voted = lab.run(runs, edits=ensemble)
print([task.score(clean.sample, result.frames).solved for result in voted])

figure, ax = plt.subplots()
ax.plot((0.0, 0.5, 1.0, 2.0), margins, marker="o")
ax.set(xlabel="strength of the direction at step 0", ylabel="margin of the clean answer")
figure.savefig("steering.png")
