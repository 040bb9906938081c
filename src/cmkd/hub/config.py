"""Options of `cmkd card` and `cmkd push`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class CardConfig:
    """Write the model card of a finished run, README.md in its folder.

    Args:
        run: Run folder.
        license: Licence of the network, as the Hugging Face hub names it: `mit`, `apache-2.0`, ... By default
            the one that the card names already, if there is one.
    """

    run: str
    license: str | None = None


@dataclass(kw_only=True)
class PushConfig:
    """Push the network of a finished run to the Hugging Face hub, with its model card.

    Args:
        run: Run folder.
        repo: Where to, as `user/name`; it is made if need be.
        private: Make it for oneself alone.
        license: As for `cmkd card`.
        message: What the commit says.
    """

    run: str
    repo: str
    private: bool = False
    license: str | None = None
    message: str | None = None
