"""Views: what is kept of a selected tensor, computed on its device while the run goes on.

``lab.capture(runs, "blocks.*.hook_resid_post", to=..., views=["frame_mean", views.norm("robust")])`` keeps two small
tensors a step instead of the whole one. A view has a name that can be read back, and that becomes part of the name of
what is stored: "blocks.3.hook_resid_post@frame_mean".
"""

from __future__ import annotations

from interp.views.attention import attention_entropy, attention_mass, attention_top
from interp.views.axes import reduce
from interp.views.direction import project, random_projection
from interp.views.names import kept_views, parse, view_of, views_of
from interp.views.plan import Output, ViewPlan, stored_name
from interp.views.pool import frame_mean, grid_pool, region_mean, token_mean
from interp.views.statistics import covariance, moments, norm
from interp.views.view import Given, Made, View, full
from interp.views.viewer import Viewer

__all__ = [
    "Given",
    "Made",
    "Output",
    "View",
    "ViewPlan",
    "Viewer",
    "attention_entropy",
    "attention_mass",
    "attention_top",
    "covariance",
    "frame_mean",
    "full",
    "grid_pool",
    "kept_views",
    "moments",
    "norm",
    "parse",
    "project",
    "random_projection",
    "reduce",
    "region_mean",
    "stored_name",
    "token_mean",
    "view_of",
    "views_of",
]
