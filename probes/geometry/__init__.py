"""Geometry of cached activations: principal components, alignment between sites, erasing a concept."""

from probes.geometry.cka import cka, cka_matrix, cka_minibatch
from probes.geometry.erase import Eraser, Leace, leace
from probes.geometry.pca import Components, Covariance, pca

__all__ = ["Components", "Covariance", "Eraser", "Leace", "cka", "cka_matrix", "cka_minibatch", "leace", "pca"]
