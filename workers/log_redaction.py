"""What may not reach a log, whoever writes it: secrets, URLs beyond their host, and text that people wrote.

Our own lines carry ids, names, numbers and codes, and need none of this. It is for what nobody foresaw: an exception
that quotes a request, a library that logs what it was given. Such text is replaced by its length; the words of code
(names of events, templates of messages, frames of a traceback) stay.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from shared.errors import ConfigurationError
from workers.log_tracebacks import traceback_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, MutableMapping

    from shared.settings import Settings
    from shared.settings_section import SecretReference

HIDDEN: Final = "[hidden]"
SECRET_CHARS_MIN: Final = 6  # shorter ones would hide half of the log
_WORDS_MAX: Final = 8
_CHARS_MAX: Final = 200
_URL: Final = re.compile(r"\b([a-z][a-z0-9+.-]*)://([^\s\"'<>\\]*)", re.IGNORECASE)
_KEY: Final = re.compile(r"\b(sk-|whsec_|xox[a-z]-|gh[a-z]_)[A-Za-z0-9+/=_-]{6,}|\bAKIA[A-Z0-9]{12,}")
_NAMED: Final = re.compile(
    r"(?i)\b(authorization|api[_-]?key|(?:secret|session|access)[\w-]*|password|passwd|token|signature|x-amz-[\w-]+)"
    r"(\"|')?(\s*[=:]\s*)(bearer\s+|basic\s+)?(\"|')?[^\s\"',;&)}\]]+"
)
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
_QUOTED: Final = re.compile(r"(?<!\w)(?:'((?:[^'\\]|\\.){24,})'|\"((?:[^\"\\]|\\.){24,})\")(?!\w)")
_DATA: Final = re.compile(r"[{}\[\]\"]")
_KEPT: Final = frozenset({"event", "exception", "stack", "timestamp", "level", "logger"})
_PATHS_KEPT: Final = frozenset({"redis", "rediss", "sentinel", "amqp"})  # a database, no secret


class Redaction:
    """A structlog processor, the last before the renderer; knows some secrets by their text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({each for each in secrets if len(each) >= SECRET_CHARS_MIN}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(
        self, _logger: Any, _method: str, line: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        error = line.pop("exc_info", None)
        for name, value in line.items():
            line[name] = self._text(value) if name in _KEPT else self._value(value)
        if error:
            line["exception"] = traceback_text(error, self.scrubbed)
        return line

    def scrubbed(self, text: str) -> str:
        """Take secrets out, and of URLs what is beyond the host."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        if "://" in text:
            text = _URL.sub(_host_only, text)
        text = _KEY.sub(HIDDEN, text)
        text = _NAMED.sub(rf"\1\2\3{HIDDEN}", text)
        return _BEARER.sub(rf"\1 {HIDDEN}", text)

    def _text(self, value: Any) -> Any:
        """Scrub a text that is ours or a library's; what it quotes may be anybody's."""
        return _QUOTED.sub(_unquoted, self.scrubbed(value)) if isinstance(value, str) else value

    def _value(self, value: Any) -> Any:
        match value:
            case bool() | int() | float() | None:
                return value
            case str():
                return shown(self.scrubbed(value))
            case dict():
                return {str(key): self._value(each) for key, each in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._value(each) for each in value]
            case _:
                return shown(self.scrubbed(str(value)))

    def merged(self, _logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Put a library's arguments into its message: the message is code, the arguments may be anything.

        The first processor of a record that is not structlog's.
        """
        template, given = str(line["event"]), line.pop("positional_args", None)
        if given:
            line["event"] = _merged(template, self._arguments(given))
        return line

    def _arguments(self, given: Any) -> Any:
        if isinstance(given, dict):
            return {key: self._argument(each) for key, each in given.items()}
        return tuple(map(self._argument, given))

    def _argument(self, value: Any) -> Any:
        if isinstance(value, bool | int | float) or value is None:
            return value
        if isinstance(value, BaseException):
            return _AsIs(traceback_text(value, self.scrubbed, frames=False))
        text = self.scrubbed(str(value))
        return _AsIs(_length(text) if _DATA.search(text) else shown(text))


class _AsIs(str):
    """A text that `%r` shows as `%s` does."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def shown(text: str) -> str:
    """Give a text if it can be a name, a code or a short remark of ours; else its length."""
    if len(text) <= _CHARS_MAX and text.count(" ") < _WORDS_MAX:
        return text
    return _length(text)


def _length(text: str) -> str:
    return f"({len(text)} characters not shown)"


def _merged(template: str, given: Any) -> str:
    try:
        return str(template % given)
    except (TypeError, ValueError, KeyError):
        return template


def _host_only(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return f"{scheme}://{HIDDEN}"
    host, path = parts.hostname or "", parts.path
    if path not in ("", "/") and scheme.lower() not in _PATHS_KEPT:
        path = "/..."
    return f"{scheme}://{f'[{host}]' if ':' in host else host}{port}{path}"


def _unquoted(found: re.Match[str]) -> str:
    text = found[1] or found[2]
    return found[0] if text.count(" ") < _WORDS_MAX // 2 else _length(text)


def secrets_of(settings: Settings) -> Iterator[str]:
    """Give the secrets that a worker holds, as far as they can be read now."""
    for url in (settings.redis.url, settings.broker.url):
        try:
            yield urlsplit(url).password or ""
        except ValueError:
            continue
    for reference in _references(settings):
        try:
            secret = reference.read("log").get_secret_value()
        except ConfigurationError:
            continue
        yield secret
        yield secret.removeprefix("whsec_")


def _references(settings: Settings) -> Iterator[SecretReference]:
    storage, webhooks = settings.storage, settings.webhooks
    yield from (account.api_key for account in settings.accounts.values())
    yield from (endpoint.secret for endpoint in webhooks.endpoints.values())
    single = (webhooks.secret, storage.access_key_id, storage.secret_access_key, storage.session_token)
    yield from (reference for reference in single if reference is not None)
