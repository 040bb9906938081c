"""Networks by name, and their weights."""

from cmkd.models.checking import check_logits
from cmkd.models.factory import available, build, count_parameters, has_new_classifier, input_statistics
from cmkd.models.weights import load_weights, read_state_dict, save_weights

__all__ = [
    "available",
    "build",
    "check_logits",
    "count_parameters",
    "has_new_classifier",
    "input_statistics",
    "load_weights",
    "read_state_dict",
    "save_weights",
]
