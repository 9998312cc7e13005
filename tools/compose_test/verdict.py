"""What was found, line by line: each says what it looked at, what it found, and whether that is right."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the verdict."""

    what: str
    found: str
    holds: bool


@dataclass(slots=True)
class Verdict:
    """All lines so far."""

    findings: list[Finding] = field(default_factory=list)

    def note(self, what: str, found: object, holds: bool) -> None:
        self.findings.append(Finding(what, str(found), bool(holds)))

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Note whether `found` equals `wanted`; show what was wanted if not."""
        shown = str(found) if found == wanted else f"{found}, not {wanted}"
        self.note(what, shown, found == wanted)

    @property
    def holds(self) -> bool:
        return all(finding.holds for finding in self.findings)

    def table(self) -> str:
        width = max((len(finding.what) for finding in self.findings), default=0)
        rows = [
            f"{'ok  ' if finding.holds else 'FAIL'}  {finding.what:<{width}}  {finding.found}"
            for finding in self.findings
        ]
        return "\n".join(rows)

    def json(self) -> str:
        return json.dumps({"ok": self.holds, "findings": [asdict(finding) for finding in self.findings]})
