"""What a test of one fault turns before it starts its workers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import AnyHttpUrl

if TYPE_CHECKING:
    from tests.faults.campaign import FaultHouse


def tune(house: FaultHouse, section: str, **values: Any) -> None:
    """Change settings of a section for the workers started from now on."""
    part = getattr(house.settings, section).model_copy(update=values)
    house.settings = house.settings.model_copy(update={section: part})


def tune_account(house: FaultHouse, **values: Any) -> None:
    """Change the one account; `base_url` is text."""
    if "base_url" in values:
        values["base_url"] = AnyHttpUrl(values["base_url"])
    house.lane(**values)


def rules(house: FaultHouse, *scripted: dict[str, object]) -> None:
    """Replace what the provider does wrong; nothing heals it."""
    house.provider.post("/control/faults", {"rules": list(scripted)})


def lane_record(house: FaultHouse) -> dict[str, str]:
    """Give what the state server knows of the lane."""
    record = cast("dict[bytes, bytes]", house.state.client().hgetall("{darkroom}:lane:main/wan2.7-image"))
    return {name.decode(): value.decode() for name, value in record.items()}


def server_ms(house: FaultHouse) -> int:
    """Give the state server's clock."""
    seconds, micros = house.state.client().time()
    return int(seconds) * 1000 + int(micros) // 1000


def peak_rss_mib(pid: int) -> float:
    """Give the most memory a process has had so far [proc(5), VmHWM]."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
