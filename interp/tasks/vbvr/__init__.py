"""Folders in VBVR layout as a task, and our own samples as such folders."""

from __future__ import annotations

from interp.tasks.vbvr.files import Clip, read_folder, write_folder
from interp.tasks.vbvr.score import ClipScore
from interp.tasks.vbvr.task import VBVRTask

__all__ = ["Clip", "ClipScore", "VBVRTask", "read_folder", "write_folder"]
