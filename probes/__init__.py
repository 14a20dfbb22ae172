"""Probes on cached activations: when and where can something be read off, and is that more than chance?

Works on arrays and stores; knows nothing of models.
"""

from probes.errors import LeakageError, ProbeError
from probes.estimators import LogisticProbe, RidgeProbe
from probes.grid import fit_grid
from probes.result import GridResult
from probes.transfer import TransferResult, fit_transfer

__all__ = [
    "GridResult",
    "LeakageError",
    "LogisticProbe",
    "ProbeError",
    "RidgeProbe",
    "TransferResult",
    "fit_grid",
    "fit_transfer",
]
