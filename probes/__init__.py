"""Probes on cached activations: when and where can something be read off, and is that more than chance?

Works on arrays and stores; knows nothing of models.
"""

from probes.between import transfer_between
from probes.calibration import Calibration, calibration
from probes.codes import code_grid
from probes.compare import compare_grids, simultaneous_bands
from probes.control_task import control_target
from probes.errors import LeakageError, ProbeError
from probes.estimators import (
    AttentionProbe,
    LDAProbe,
    LinearSVM,
    LogisticProbe,
    MeansProbe,
    MLPProbe,
    RidgeProbe,
)
from probes.grid import fit_grid
from probes.mdl import OnlineCode, online_code
from probes.regions import RegionGrids, fit_regions
from probes.result import GridResult
from probes.transfer import TransferResult, fit_transfer

__all__ = [
    "AttentionProbe",
    "Calibration",
    "GridResult",
    "LDAProbe",
    "LeakageError",
    "LinearSVM",
    "LogisticProbe",
    "MLPProbe",
    "MeansProbe",
    "OnlineCode",
    "ProbeError",
    "RegionGrids",
    "RidgeProbe",
    "TransferResult",
    "calibration",
    "code_grid",
    "compare_grids",
    "control_target",
    "fit_grid",
    "fit_regions",
    "fit_transfer",
    "online_code",
    "simultaneous_bands",
    "transfer_between",
]
