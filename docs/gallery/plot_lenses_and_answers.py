"""
Lenses and answer trajectories
==============================

Which of two equally short routes does a run take, when does it settle, and which layers can already show it?
"""

import interp
from interp.intervals import mean_by
from probes import figures

# %%
# Eight mazes with two shortest routes each, three seeds, eight denoising steps.
lab = interp.load("wan-maze-mini")
task = interp.tasks.get("maze", size=4)
runs = lab.plan(task.sample(8, seed=0, fork=True, apart=4), seeds=3, steps=8)

# %%
# The clean estimate of every step, read for both routes. An even posterior with a *blurred* picture is a superposition;
# two routes drawn in full would be several answers at once. Intervals are over mazes.
answers = interp.answers.follow(lab, runs, task)
print(answers.by_step("entropy").select("step", "sigma", "mean", "low", "high"))
print(answers.steps.group_by("step", "mode").len().sort("step", "mode"))

# %%
# When does each run commit, and do seeds of one maze agree? Chance is one half.
print(answers.runs.select("seed", "solved", "committed", "leaned", "prunes").head())
agree = answers.agreement()
figures.curves(agree, "agreement.png", by="measure", label="pairs of seeds", limits=(0, 1))

# %%
# The head on every layer's residual stream, through a tuned lens that was fitted on other mazes; layer -1 is what
# enters the first block.
lens = interp.lenses.fit_affine_lens(lab, lab.plan(task.sample(8, seed=1), steps=8))
solved = mean_by(interp.lenses.layer_lens(lab, runs, task, lens=lens), "solved")
title = "What each layer shows, by the tuned lens"
figures.heatmap(solved, "layers.png", limits=(0, 1), label="solved", title=title)
