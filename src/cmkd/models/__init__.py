"""Networks by name, and their weights."""

from cmkd.models.checking import check_logits, has_unused_parameters
from cmkd.models.factory import build, has_new_classifier, input_statistics
from cmkd.models.families import available
from cmkd.models.layers import FeatureLayers, feature_layers
from cmkd.models.reuse import reuse_classifier
from cmkd.models.size import Size, count_macs, count_parameters, sizes
from cmkd.models.weights import load_weights, read_state_dict, save_weights

__all__ = [
    "FeatureLayers",
    "Size",
    "available",
    "build",
    "check_logits",
    "count_macs",
    "count_parameters",
    "feature_layers",
    "has_new_classifier",
    "has_unused_parameters",
    "input_statistics",
    "load_weights",
    "read_state_dict",
    "reuse_classifier",
    "save_weights",
    "sizes",
]
