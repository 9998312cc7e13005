"""Which source of settings wins, and that a secret's reference is taken whole from one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings
from shared.settings_section import SecretReference

if TYPE_CHECKING:
    from collections.abc import Callable

    Configure = Callable[[str], None]

TOML = """\
[accounts.main]
submit_per_s = 7
api_key = { file = "/run/secrets/of-the-file" }
[webhooks.secret]
file = "/run/secrets/hooks"
[storage]
access_key_id = { file = "/run/secrets/id" }
"""


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Give what writes darkroom.toml."""

    def write(text: str) -> None:
        (tmp_path / "darkroom.toml").write_text(text)
        monkeypatch.setenv("DARKROOM_CONFIG", str(tmp_path / "darkroom.toml"))

    return write


def test_a_price_that_scripts_cannot_count_is_refused() -> None:
    """Lua counts exactly to 2^53: what is a million a picture, in micros, was meant otherwise."""
    prices = {"wan2.7-image": 10**12 + 1}
    with pytest.raises(ConfigurationError, match=r"price_micros\.wan2\.7-image: .* less than or equal to"):
        load_settings(accounts={"main": {"price_micros": prices}})


def test_a_stronger_reference_replaces_a_weaker_one_whole(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment names a variable where the file names a file: the variable it is, and the rest stays."""
    configure(TOML)
    monkeypatch.setenv("DARKROOM_ACCOUNTS__MAIN__API_KEY__ENV", "KEY_OF_THE_ENVIRONMENT")
    monkeypatch.setenv("DARKROOM_WEBHOOKS__SECRET", '{"env": "HOOKS"}')
    settings = load_settings()
    assert settings.accounts["main"].api_key == SecretReference(env="KEY_OF_THE_ENVIRONMENT")
    assert settings.accounts["main"].submit_per_s == 7
    assert settings.webhooks.secret == SecretReference(env="HOOKS")
    assert settings.storage.access_key_id == SecretReference(file=Path("/run/secrets/id"))


def test_two_references_in_one_source_are_a_mistake(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say which was meant."""
    monkeypatch.setenv("DARKROOM_WEBHOOKS__SECRET__ENV", "HOOKS")
    monkeypatch.setenv("DARKROOM_WEBHOOKS__SECRET__FILE", "/run/secrets/hooks")
    configure(TOML)
    with pytest.raises(ConfigurationError, match="not both"):
        load_settings()


def test_a_table_called_like_a_reference_is_none(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account may be called `env`, and is put together from both sources."""
    configure("[accounts.env]\nsubmit_per_s = 7\n[accounts.other]\nsubmit_per_s = 8\n")
    monkeypatch.setenv("DARKROOM_ACCOUNTS__ENV__POLL_PER_S", "9")
    accounts = load_settings().accounts
    assert (accounts["env"].submit_per_s, accounts["env"].poll_per_s) == (7, 9)
    assert accounts["other"].submit_per_s == 8


def test_a_single_key_wins_over_its_table(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment over file, a key over a table of JSON, whatever the case of the variable's name."""
    configure('[redis]\nurl = "redis://file/0"\nnamespace = "file"\nsocket_timeout_s = 3\n')
    monkeypatch.setenv("DARKROOM_REDIS", '{"url": "redis://table/0", "namespace": "table"}')
    monkeypatch.setenv("darkroom_redis__url", "redis://key/0")
    redis = load_settings().redis
    assert (redis.url, redis.namespace, redis.socket_timeout_s) == ("redis://key/0", "table", 3)
    assert load_settings(redis={"url": "redis://given/0"}).redis.url == "redis://given/0"


def test_text_becomes_what_the_key_holds(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, switches and paths from plain text; lists and tables from JSON, also below a name of one's own."""
    configure("")
    for name, text in {
        "DARKROOM_ACCOUNTS__MAIN__MODELS": '["wan2.7-image"]',
        "DARKROOM_ACCOUNTS__MAIN__PRICE_MICROS": '{"wan2.7-image": 5}',
        "DARKROOM_ACCOUNTS__MAIN__MAX_IN_FLIGHT": "7",
        "DARKROOM_WEBHOOKS__SCHEDULE_S": "[0, 1.5]",
        "DARKROOM_FLOWER__EVENTS": "false",
        "DARKROOM_STORAGE__TEMP_DIR": "/var/tmp",
        "DARKROOM_REDIS__NAMESPACE": "1234",
    }.items():
        monkeypatch.setenv(name, text)
    settings = load_settings()
    account = settings.accounts["main"]
    assert (account.models, account.price_micros, account.max_in_flight) == (
        ("wan2.7-image",),
        {"wan2.7-image": 5},
        7,
    )
    assert (settings.webhooks.schedule_s, settings.flower.events) == ((0, 1.5), False)
    assert (settings.storage.temp_dir, settings.redis.namespace) == (Path("/var/tmp"), "1234")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("DARKROOM_WEBHOOKS__SCHEDULE_S", "0, 1", "DARKROOM_WEBHOOKS__SCHEDULE_S is not JSON"),
        ("DARKROOM_REDIS", "redis://here", "DARKROOM_REDIS is not JSON"),
        ("DARKROOM_REDIS__ULR", "redis://here", "redis.ulr"),
        ("DARKROOM_REDIS__MAX_CONNECTIONS", "many", "DARKROOM_REDIS__MAX_CONNECTIONS"),
        ("DARKROOM_REDIS__URL__HOST", "x", "DARKROOM_REDIS__URL"),
        ("DARKROOM_ACCOUNTS__MAIN__API_KEY", "sk-canary", "DARKROOM_ACCOUNTS__MAIN__API_KEY__ENV"),
        ("DARKROOM_WEBHOOKS__SECRET", "whsec_canary", "as variables, ..__ENV or ..__FILE"),
        ("DARKROOM_CAPS", '[{"scope": "canary", "limit": 1}]', "Correct DARKROOM_CAPS or darkroom.toml."),
        (
            "DARKROOM_CAPS",
            '[{"scope": "acme", "limit": 1}]',
            "a scope is tenant:NAME, tenant:* or account:NAME",
        ),
    ],
)
def test_a_variable_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, says: str
) -> None:
    """One sentence with the variable, never its value."""
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert says in str(caught.value)
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"[redis\n", "is not TOML"), (b"\xff\xfe", "is not UTF-8"), (b"[redsi]\nurl = 1\n", "redsi")],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, says: str
) -> None:
    """One sentence, also for a table that no setting has; a folder in its place is said, too."""
    file = tmp_path / "darkroom.toml"
    file.write_bytes(content)
    monkeypatch.setenv("DARKROOM_CONFIG", str(file))
    with pytest.raises(ConfigurationError, match=says):
        load_settings()
    monkeypatch.setenv("DARKROOM_CONFIG", str(tmp_path))
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_settings()


@pytest.mark.parametrize("secret", ['"sk-canary"', "1234"])
def test_a_secret_in_the_place_of_its_reference_is_told_where_it_goes(
    configure: Configure, secret: str
) -> None:
    """The commonest mistake of a first hour: the line shows both ways, and not the secret."""
    configure(f"[accounts.main]\napi_key = {secret}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value) == (
        "setting accounts.main.api_key: must name the place of the secret, not hold it: "
        '{ env = "VARIABLE" } or { file = "PATH" }; as variables, ..__ENV or ..__FILE. '
        "Correct DARKROOM_ACCOUNTS__MAIN__API_KEY or darkroom.toml."
    )


def test_variables_of_no_section_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets and switches may be called DARKROOM_ as well."""
    monkeypatch.setenv("DARKROOM_API_KEY", "secret")
    assert load_settings() == Settings.model_construct()
