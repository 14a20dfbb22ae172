"""
Noise at a step
===============

Replacing x_t by noise at a late step leaves noise in the result. Renoising draws a sample of the right noise level.
"""

import matplotlib.pyplot as plt
import numpy as np

import interp
from interp import edits
from interp.replay import record, replay

# %%
# One run, recorded: every edited run starts again at its first edited step, equal to the full rerun to the bit.
lab = interp.load("wan-maze-mini")
run = lab.plan(interp.tasks.get("maze", size=4).sample(1, seed=0), steps=8)[0]
recording, clean = record(lab, run), lab.run(run)

# %%
# How far the result moves, by step and by kind of noise.
moved: dict[str, list[float]] = {}
for kind in ("replace", "renoise", "add"):
    for step in (1, 3, 5, 7):
        result = replay(lab, recording, edits.noise(kind=kind, step=step, scale=1.0))[0]
        moved.setdefault(kind, []).append(np.abs(result.frames.astype(float) - clean.frames).mean())

# %%
# One latent frame, at every step: noise at a frame.
framed = lab.run(run, edits=edits.noise(kind="renoise", step=slice(1, None), frames=2))
print(framed.edited)

figure, ax = plt.subplots()
for kind, values in moved.items():
    ax.plot((1, 3, 5, 7), values, marker="o", label=kind)
ax.set(xlabel="step", ylabel="mean change of a pixel")
ax.legend()
figure.savefig("noise.png")
