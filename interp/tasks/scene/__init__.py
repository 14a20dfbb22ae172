"""Scenes of 10 x 10 blocks with a few possible answers each: grounding, reappearance, bounce."""

from __future__ import annotations

from interp.tasks.scene.bounce import Bounce, BounceTask
from interp.tasks.scene.grounding import Grounding, GroundingTask
from interp.tasks.scene.problem import Problem
from interp.tasks.scene.reappearance import Reappearance, ReappearanceTask
from interp.tasks.scene.score import SceneScore
from interp.tasks.scene.task import SceneTask

__all__ = [
    "Bounce",
    "BounceTask",
    "Grounding",
    "GroundingTask",
    "Problem",
    "Reappearance",
    "ReappearanceTask",
    "SceneScore",
    "SceneTask",
]
