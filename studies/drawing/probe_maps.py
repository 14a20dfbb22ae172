"""Probes by step and layer as maps, with what the network was given below them."""

from __future__ import annotations

from collections.abc import Sequence

from studies.base.folder import StudyFolder
from studies.base.signs import X0, XT
from studies.drawing.heat import Heat, heatmaps
from studies.drawing.report import Picture
from studies.measures.probed import Probed


def draw_maps(folder: StudyFolder, name: str, probed: Sequence[Probed], title: str) -> Picture:
    """Questions side by side.

    Args:
        folder: to write to.
        name: of the PNG.
        probed: of the same runs and steps.
        title: of the picture.
    """
    heats, steps = [], probed[0].hidden.steps
    for one in probed:
        cells = one.hidden.table.sort("layer", "step")
        shape = (len(one.hidden.layers), len(steps))
        values, low, bar = (cells[column].to_numpy().reshape(shape) for column in ("score", "low", "chance_high"))
        baselines = {sign: one.curve(source)["score"].to_numpy() for source, sign in (("x0_hat", X0), ("x_t", XT))}
        question = one.question
        heats.append(Heat(f"{question.name.capitalize()}, latent frame {question.frame}", values, low > bar, baselines))
    sigmas = probed[0].curve()["sigma"].to_list()
    with folder.writing(name) as path:
        heatmaps(path, heats, sigmas, low=0.45, high=1.0, label="balanced accuracy", steps=steps)
    asked = " ".join(dict.fromkeys(one.question.asked for one in probed))
    return Picture(folder / name, title, f"{asked} {_caption(probed)}")


def _caption(probed: Sequence[Probed]) -> str:
    first = probed[0].curve()
    chance = sum(float(one.hidden.table["chance"].to_numpy().mean()) for one in probed) / len(probed)
    given = [f"{one.hidden.baselines['score'][0]:.2f}" for one in probed if len(one.hidden.baselines)]
    picture = f" The same probe on the given picture, as seen from the token: {' and '.join(given)}." if given else ""
    return (
        f"Balanced accuracy of linear probes, {first['n'][0]} tokens of {first['groups'][0]} problems. Hatched: the "
        f"interval does not clear the chance level (about {chance:.2f}).{picture}"
    )
