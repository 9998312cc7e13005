"""Where the worker processes of a machine keep generation ids that the state server could not take yet.

`workers/spool.py` writes there and reads it back; `darkroom doctor` looks whether it could. Each installation has a
folder of its own inside, named by its mark: ids of another one are none of a worker's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.settings_layers import state_folder

if TYPE_CHECKING:
    from pathlib import Path

    from shared.settings import WorkerSettings

WAITING: Final = ".json"
SET_ASIDE: Final = ".unreadable"


def spool_folder(settings: WorkerSettings) -> Path | None:
    """Give the folder of all installations, which need not exist; None if nothing is kept."""
    if settings.spool == "off":
        return None
    try:
        return settings.spool or state_folder() / "spool"
    except RuntimeError:  # a user without a home
        return None
