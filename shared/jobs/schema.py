"""The version of job records, for upgrades while old and new processes run side by side.

A record carries it as `v`; one without is of version 1. Whoever reads a record of its own version or of an earlier one
knows what it means. A record of a later version is left alone: no claim takes it, no transition changes it (a generation
id is attached all the same, by its intent), and `darkroom doctor` counts it, until workers of that version are there.
"""

from __future__ import annotations

from typing import Final

SCHEMA: Final = 1
