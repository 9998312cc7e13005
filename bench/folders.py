"""Where measurements keep their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")


def memory_folder() -> str | None:
    """Give a folder that is kept in memory, None if this system has none.

    On ext4 a new file costs up to 1 ms of CPU for minutes after many were deleted, as after every run: what is
    measured then is the run before.
    """
    return str(_MEMORY) if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
