"""Mazes: generate, render, solve, score, label."""

from __future__ import annotations

from interp.tasks.maze.baseline import first_frame_features, window_width
from interp.tasks.maze.maze import Maze
from interp.tasks.maze.score import MazeScore
from interp.tasks.maze.task import PROMPTS, MazeTask

__all__ = ["PROMPTS", "Maze", "MazeScore", "MazeTask", "first_frame_features", "window_width"]
