"""Geometry of cached activations: components and paths, likeness of sites, dimension, energy, directions, erasure."""

from probes.geometry.cka import cka, cka_matrix, cka_minibatch
from probes.geometry.dimension import Dimension, participation_ratio, two_nn
from probes.geometry.direction import Direction, MeanDifference, mean_difference
from probes.geometry.energy import Energy, energies, energy, energy_table
from probes.geometry.erase import Eraser, Leace, leace
from probes.geometry.paths import Paths, blocks_of, pca_paths, rows_of, umap_paths
from probes.geometry.pca import Components, Covariance, pca
from probes.geometry.similarity import StreamedCKA, compare, matrix_of, procrustes, rsa, subspace_overlap

__all__ = [
    "Components",
    "Covariance",
    "Dimension",
    "Direction",
    "Energy",
    "Eraser",
    "Leace",
    "MeanDifference",
    "Paths",
    "StreamedCKA",
    "blocks_of",
    "cka",
    "cka_matrix",
    "cka_minibatch",
    "compare",
    "energies",
    "energy",
    "energy_table",
    "leace",
    "matrix_of",
    "mean_difference",
    "participation_ratio",
    "pca",
    "pca_paths",
    "procrustes",
    "rows_of",
    "rsa",
    "subspace_overlap",
    "two_nn",
    "umap_paths",
]
