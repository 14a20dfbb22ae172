"""Probes as scikit-learn estimators, each kept in a folder by ``save`` and read by ``load``."""

from probes.estimators.attention import AttentionProbe
from probes.estimators.controls import LinearSVM, MLPProbe
from probes.estimators.discriminant import LDAProbe, MeansProbe
from probes.estimators.linear import LogisticProbe, RidgeProbe

__all__ = ["AttentionProbe", "LDAProbe", "LinearSVM", "LogisticProbe", "MLPProbe", "MeansProbe", "RidgeProbe"]
