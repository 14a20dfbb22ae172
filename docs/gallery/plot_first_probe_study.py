"""
Your first probe study
======================

At which step, and in which layer, does the bundled model know the path that it is going to draw?
"""

import interp
import probes

# %%
# A model, a task and the runs: 24 mazes of 4 x 4 cells, one seed each, 8 denoising steps.
lab = interp.load("wan-maze-mini")
task = interp.tasks.get("maze", size=4)
runs = lab.plan(task.sample(24, seed=0), seeds=1, steps=8)

# %%
# Run them and keep the residual stream after every block, for the tokens of the last latent frame, where the whole path
# is drawn. One file a run: stop it and it goes on where it was.
where = interp.select("blocks.*.hook_resid_post", branch="cond", frames=-1)
store = lab.capture(runs, where, to="build/first-probe-study", progress=False)
print(store.runs_frame.select("run", "sample", "seed", "solved").head())

# %%
# One probe for each step and layer: is this token on the path that the run ended with? Mazes are never split between
# training and test, and chance comes from shuffled labels. Late steps are separable, so the probes are regularised.
grid = probes.fit_grid(store, target="on_path", groups="sample", path=(0.001, 0.03))
print(grid.table.select("step", "sigma", "layer", "score", "low", "high", "chance_high"))

# %%
# The first step at which a probe is better than chance, and the whole grid as a picture. Dots mark cells whose interval
# lies above chance.
print(grid.onset())
grid.plot("when.png")
