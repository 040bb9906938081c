"""Students in the habits of the Hugging Face hub: a model card, `from_pretrained`, `push_to_hub`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmkd.hub.cards import model_card, write_model_card
    from cmkd.hub.config import CardConfig, PushConfig
    from cmkd.hub.loading import download, from_pretrained
    from cmkd.hub.pushing import push_to_hub

# Read by `__getattr__`: every command looks up the options, and few need the rest.
_MODULES = {
    "CardConfig": "config",
    "PushConfig": "config",
    "download": "loading",
    "from_pretrained": "loading",
    "model_card": "cards",
    "push_to_hub": "pushing",
    "write_model_card": "cards",
}

__all__ = [
    "CardConfig",
    "PushConfig",
    "download",
    "from_pretrained",
    "model_card",
    "push_to_hub",
    "write_model_card",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
