"""What every table of the settings is made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from shared.errors import ConfigurationError


class Section(BaseModel):
    """One table of the settings: unknown keys are refused, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretReference(Section):
    """Where a secret is: an environment variable or a file. Exactly one; read at use, never stored."""

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_secret(cls, given: Any) -> Any:
        if isinstance(given, (dict, cls)):
            return given
        raise ValueError(
            'must name the place of the secret, not hold it: { env = "VARIABLE" } or { file = "PATH" }; '
            "as variables, ..__ENV or ..__FILE"
        )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("name either env (an environment variable) or file, not both")
        return self

    def read(self, purpose: str) -> SecretStr:
        """Give the secret, or raise ConfigurationError that says where it was looked for."""
        if self.env is not None:
            value = os.environ.get(self.env, "")
            where = f"environment variable {self.env}"
        else:
            assert self.file is not None
            where = f"file {self.file}"
            try:
                value = self.file.read_text().strip()
            except OSError as error:
                raise ConfigurationError(
                    f"{purpose}: cannot read {where} ({error.strerror}). Create it."
                ) from None
        if not value:
            raise ConfigurationError(f"{purpose}: {where} is empty. Put the secret there.")
        return SecretStr(value)
