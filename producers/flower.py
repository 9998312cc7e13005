"""How Flower is started: its options, and an environment with nothing in it that Flower does not need.

Its login comes by the environment, since `ps` shows arguments to everybody. It gets the broker's URL and the names
of queues; the state server's URL only with the door open, for the results; no key and no secret of ours at all.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from shared.errors import ConfigurationError
from shared.settings_section import SecretReference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shared.settings import Settings
    from shared.settings_surface import FlowerSettings

_LOGIN: Final = "FLOWER_BASIC_AUTH"
_OPEN_API: Final = "FLOWER_UNAUTHENTICATED_API"
# Settings of ours and of Celery would lead Flower elsewhere; credentials of the object store are not its business.
_NOT_ITS: Final = ("DARKROOM_", "CELERY_", "AWS_")
_NOT_ITS_NAMES: Final = frozenset({"APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE"})
_COLUMNS: Final = (
    "uuid,state,kwargs,result,exception,received,runtime,worker"  # every row is a generate_image
)
_SECRET_OPTIONS: Final = frozenset({"basic_auth", "oauth2_key", "oauth2_secret", "cookie_secret"})


@dataclass(frozen=True, slots=True)
class Start:
    """A process to be: arguments of `python -m`, and its whole environment. `login` says whether it asks for one."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    login: bool

    def __repr__(self) -> str:
        """Leave the environment out: it holds the login."""
        return f"Start({' '.join(self.arguments)})"


def plan_start(settings: Settings, given: Sequence[str], environ: Mapping[str, str]) -> Start:
    """Say how to start Flower with options of its own beside ours. Raises ConfigurationError."""
    names = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in given if word.startswith("--")]
    if told := _SECRET_OPTIONS.intersection(names):
        option = min(told)
        raise ConfigurationError(
            f"--{option} would show in the list of processes. Set FLOWER_{option.upper()} in the environment, "
            "or settings flower.basic_auth."
        )
    login = _login(settings.flower, environ, by_oauth="auth" in names or "FLOWER_AUTH" in environ)
    environment = {**_inherited(settings, environ), **_settings_for_flower(settings), **login}
    return Start(
        ("celery", "-A", "producers.flower_app", "flower", *_options(settings), *given),
        environment,
        _OPEN_API not in login,
    )


def check_port(flower: FlowerSettings) -> None:
    """Raise ConfigurationError if Flower could not listen: it would say so with a traceback."""
    try:
        (family, *_, place), *_ = socket.getaddrinfo(
            flower.address or None, flower.port, type=socket.SOCK_STREAM
        )
        with socket.create_server(place[:2], family=family):
            pass
    except OSError as error:
        why = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise ConfigurationError(
            f"Flower cannot be served at {flower.address}:{flower.port} ({why}). Choose another address or port."
        ) from None


def _login(flower: FlowerSettings, environ: Mapping[str, str], *, by_oauth: bool) -> dict[str, str]:
    """Give the login as Flower reads it; nothing if it asks elsewhere. Raises ConfigurationError without any."""
    try:
        login = flower.basic_auth.read("login of Flower").get_secret_value()
    except ConfigurationError:
        if "basic_auth" in flower.model_fields_set:
            raise
        login = environ.get(_LOGIN, "")
    if login:
        return {_LOGIN: _checked(login)}
    if by_oauth:
        return {}
    if not flower.insecure:
        raise ConfigurationError(
            "Flower can cancel jobs and needs a login. Set DARKROOM_FLOWER_AUTH=user:password (or flower.basic_auth, "
            "a reference to it); --insecure starts it without one, on a loopback address only."
        )
    if not _is_loopback(flower.address):
        raise ConfigurationError(
            f"without a login Flower may listen on a loopback address only, not on {flower.address}. "
            "Set DARKROOM_FLOWER_AUTH=user:password."
        )
    return {_OPEN_API: "true"}


def _checked(login: str) -> str:
    """Refuse what would let nobody in, or anybody."""
    for each in login.split(","):
        user, _, password = each.partition(":")
        if not user.strip() or not password.strip():
            raise ConfigurationError("login of Flower: write user:password, several parted by commas.")
    return login


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _options(settings: Settings) -> Iterator[str]:
    flower = settings.flower
    yield f"--address={flower.address}"
    yield f"--port={flower.port}"
    yield f"--max_tasks={flower.max_tasks}"
    yield f"--purge_offline_workers={flower.purge_offline_s}"
    yield f"--tasks_columns={_COLUMNS}"
    if flower.url_prefix:
        yield f"--url_prefix={flower.url_prefix.strip('/')}"
    if flower.history != "off":
        yield "--persistent=true"
        yield f"--db={_history_file(flower.history, settings.redis.namespace)}"
        yield f"--state_save_interval={round(1000 * flower.history_save_s)}"


def _history_file(named: Path | None, namespace: str) -> Path:
    """Give the file, and make its folder, for this user only: Flower unpickles what it finds there."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = (named or state / "darkroom" / f"flower-{namespace}").absolute()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot keep Flower's list in {path} ({error.strerror}). "
            "Set DARKROOM_FLOWER__HISTORY to a file that can be written, or to off."
        ) from None
    return path


def _inherited(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    secrets = set(_secret_names(settings))
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_NOT_ITS) and name not in _NOT_ITS_NAMES | secrets
    }


def _secret_names(value: Any) -> Iterator[str]:
    """Give the environment variables that settings refer to for secrets."""
    match value:
        case SecretReference():
            if value.env is not None:
                yield value.env
        case BaseModel():
            for name in type(value).model_fields:
                yield from _secret_names(getattr(value, name))
        case dict():
            for each in value.values():
                yield from _secret_names(each)
        case _:
            return


def _settings_for_flower(settings: Settings) -> dict[str, str]:
    """Give what the app of Flower reads, and keep it from reading more elsewhere."""
    state = settings.redis if settings.door.enabled else None
    redis = state.model_dump(mode="json") if state else {"namespace": settings.redis.namespace}
    return {
        "DARKROOM_CONFIG": os.devnull,
        "DARKROOM_DEV_FILE": os.devnull,
        "DARKROOM_REDIS": json.dumps(redis),
        "DARKROOM_BROKER": settings.broker.model_dump_json(),
        "DARKROOM_DOOR": settings.door.model_dump_json(),
    }
