"""Settings that are there and say nothing, say it twice, or say what will not serve. Pure, but for the clock of none."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from producers.doctor.findings import bad, beware, good
from shared.settings_layers import PREFIX, variable_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from producers.doctor.findings import Finding
    from shared.settings import Settings

# Read beside the settings, by us or by what we start.
_BESIDE: Final = frozenset(
    {"config", "dev_file", "api_key", "flower_auth", "traceback", "crash_at", "screenshots"}
)
# Read by docker-compose.yml: they stand in the same .env, and so reach its containers.
COMPOSE: Final = frozenset(
    {
        "env_file", "image", "python_image", "sandbox_image", "state_image", "state_appendfsync", "state_maxmemory",
        "flower_port", "prometheus_image", "prometheus_port", "prometheus_retention", "sandbox_options",
        "sandbox_port", "sink_port", "s3_port", "s3_access_key_id", "s3_secret_access_key", "webhook_secret",
    }
)  # fmt: skip


def judge_sources(
    settings: Settings, environment: Mapping[str, str], file: Mapping[str, Any], stack: Mapping[str, Any]
) -> Iterator[Finding]:
    """Say what in the environment, darkroom.toml and a running `darkroom dev` is empty, unknown or outranked."""
    named = [name for name in environment if variable_path(name)]
    found = [
        *_empty(named, environment),
        *_unknown(settings, named),
        *_outranked(environment, file, "darkroom.toml"),
    ]
    if stack:
        found += _outranked(environment, stack, "the running `darkroom dev`")
        where = "the stack that `darkroom dev` runs decides what is not set otherwise"
        found.append(good("settings", where))
    yield from found
    count = len(named) + len(list(_paths(file)))
    yield good("settings", f"read: {count} values are given, the rest are defaults")


def _empty(named: Sequence[str], environment: Mapping[str, str]) -> Iterator[Finding]:
    for name in named:
        if not environment[name].strip():
            yield beware("settings", f"{name} is set, and empty", "Give it a value, or unset it.")


def _unknown(settings: Settings, named: Sequence[str]) -> Iterator[Finding]:
    fields = type(settings).model_fields
    references = {name.upper() for _, reference in references_of(settings) if (name := reference.env)}
    for name in named:
        section = variable_path(name)[0]
        if section in fields or section in _BESIDE | COMPOSE or name.upper() in references:
            continue
        likely = _likely(variable_path(name), fields)
        meant = f"{PREFIX}{'__'.join(likely).upper()}"
        do = f"Did you mean {meant}?" if likely else "See docs/configuration.md for the names there are."
        yield beware("settings", f"{name} is no setting, and is not looked at", do)


def _likely(path: tuple[str, ...], fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the path that was likely meant: one underscore may have been left out, or a letter be wrong."""
    for name, section in fields.items():
        key = path[0].removeprefix(f"{name}_")
        if key in getattr(section.annotation, "model_fields", ()):
            return (name, key, *path[1:])
    near = get_close_matches(path[0], fields, n=1)
    return (*near, *path[1:]) if near else ()


def references_of(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Give every reference to a secret with the setting it stands in."""
    for name, account in settings.accounts.items():
        yield f"accounts.{name}.api_key", account.api_key
    for name, endpoint in settings.webhooks.endpoints.items():
        yield f"webhooks.endpoints.{name}.secret", endpoint.secret
    storage = settings.storage
    single = {
        "webhooks.secret": settings.webhooks.secret,
        "storage.access_key_id": storage.access_key_id,
        "storage.secret_access_key": storage.secret_access_key,
        "storage.session_token": storage.session_token,
    }
    yield from ((name, reference) for name, reference in single.items() if reference is not None)


def _outranked(environment: Mapping[str, str], weaker: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """Name what is set twice: who changes the weaker one wonders why nothing happens."""
    said = {variable_path(name): name for name in environment if variable_path(name)}
    for path, value in _paths(weaker):
        over = said.get(path)
        if over is not None and environment[over] != str(value):
            what = f"{over} outranks {'.'.join(path)} of {where}"
            yield beware("settings", what, "Keep one of the two.")


def _paths(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _paths(value, (*above, name))
        else:
            yield (*above, name), value


def judge_settings(settings: Settings) -> Iterator[Finding]:
    """Say which values will not serve together."""
    for name, account in settings.accounts.items():
        for model in account.models:
            if model not in account.price_micros:
                do = f"Set accounts.{name}.price_micros, or leave the model out."
                yield bad(
                    "settings", f"account {name} serves {model} and has no price for it: jobs are refused", do
                )
    worker = settings.worker
    if worker.renew_s * 2 > worker.lease_s:
        what = f"a lease of {worker.lease_s:g} s renewed every {worker.renew_s:g} s is lost with one late renewal"
        yield beware("settings", what, "Set worker.lease_s to three times worker.renew_s.")
    if not settings.storage.enabled:
        what = "storage is off: results are the provider's URLs, which die within a day"
        yield beware("settings", what, "Set storage.url, unless your consumers copy every image at once.")
    if settings.webhooks.allow_private and not settings.webhooks.allow_http:
        what = "webhooks may reach private addresses: who enqueues can make workers call inside your network"
        yield beware("settings", what, "Set webhooks.allow_private = false outside of development.")
