"""A trained network as one file for elsewhere, and asking it."""

from cmkd.export.config import ExportConfig, PredictConfig
from cmkd.export.exporting import Exported, export
from cmkd.export.opening import Model, open_model
from cmkd.export.predicting import Prediction, predict

__all__ = [
    "ExportConfig",
    "Exported",
    "Model",
    "PredictConfig",
    "Prediction",
    "export",
    "open_model",
    "predict",
]
