"""Every command on every bad day: it ends soon, says in one line what is wrong and what to do, and shows no secret.

The commands are taken from the table of the command line: one without a case here fails the test.
"""

from __future__ import annotations

import os
import pty
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from typer.main import get_command

from producers.cli import EXIT_JOBS, EXIT_PIPE, EXIT_SETUP
from producers.cli.app import app
from producers.cli.lazy import Later
from tests.cli_forks import GONE, CliForks, Ran
from tests.process import HOST, free_ports
from tests.servers import ValkeyProc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.timeout(180)

JOB: Final = "job_00000000000000000000000000"
PASSWORD: Final = "right-password-canary"
WRONG: Final = "wrong-password-canary"
ENOUGH_S: Final = 10.0
AT_ONCE: Final = 12
# What a person is told to do; a rule ("must be one of") says it, too.
REMEDY: Final = re.compile(
    r"\b(Check|Choose|Correct|Create|Did you mean|Free|Give|Install|Look|Make|Name|Point|Raise|Run|Save|See|Set|Start|"
    r"Try again|Use|Wait|must|takes)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Case:
    """How a command is called, and what it needs.

    `state`: nothing can be done without the state server. `reports`: it looks at what is wrong and reports it as its
    result, on stdout. `settings`: it reads them. `stays`: it would run until it is told to end.
    """

    words: tuple[str, ...]
    state: bool = True
    reports: bool = False
    settings: bool = True
    stays: bool = False


_ALL: Final = {
    "enqueue": Case(("jobs.jsonl",)),
    "status": Case(()),
    "batch": Case(("b",)),
    "watch": Case(("b",)),
    "top": Case(("--once",)),
    "cancel": Case((JOB,)),
    "freeze": Case(("spending",)),
    "pause": Case(("default/wan2.7-image",)),
    "resume": Case(("default/wan2.7-image",)),
    "audit": Case(()),
    "doctor": Case((), state=False, reports=True),
    "unknown list": Case(()),
    "unknown resolve": Case((JOB, "--generation-id", "g")),
    "unknown resubmit": Case((JOB,)),
    "unknown release": Case((JOB,)),
    "dead": Case(()),
    "redrive": Case((JOB, "--yes")),
    "purge": Case((JOB, "--yes")),
    "webhook secret": Case((), state=False, settings=False),
    "webhook test": Case(("http://192.0.2.1/x",), state=False),
    "webhook deliveries": Case((JOB,)),
    "estimate": Case(("jobs.jsonl",)),
    "spend": Case(()),
    "ledger verify": Case(()),
    "ledger export": Case(()),
    "ledger close": Case(()),
    "reconcile": Case(("export.csv", "--no-objects")),
    "worker": Case((), stays=True),
    "flower": Case((), state=False, stays=True),
    "exporter": Case(("--port", "0"), state=False, stays=True),
    "sandbox": Case((), state=False, settings=False, stays=True),
    "dev": Case((), state=False, settings=False, stays=True),
    "demo": Case((), state=False, settings=False, stays=True),
}


def leaves(group: Any, before: tuple[str, ...] = ()) -> Iterator[str]:
    """Name every command that can be called, below groups, too."""
    for name, command in group.commands.items():
        found = command._place.load(name) if isinstance(command, Later) else command
        if hasattr(found, "commands"):
            yield from leaves(found, (*before, name))
        else:
            yield " ".join((*before, name))


THERE: Final = frozenset(leaves(get_command(app)))  # an installation may lack parts
CASES: Final = {name: case for name, case in _ALL.items() if name in THERE}
# Ways to call a command that are worth a case of their own.
MORE: Final = {
    "status JOB": ("status", JOB),
    "batch seal": ("batch", "seal", "b"),
    "watch": ("watch",),
    "top --json": ("top", "--json"),
    "enqueue --prompt": ("enqueue", "--prompt", "a heron"),
    "enqueue --json": ("enqueue", "jobs.jsonl", "--json"),
}
NEED_STATE: Final = {name: (*name.split(), *case.words) for name, case in CASES.items() if case.state} | MORE
NEED_STATE.pop("worker")  # its refusals are in test_refusals
READ_SETTINGS: Final = {
    name: (*name.split(), *case.words) for name, case in CASES.items() if case.settings and name != "worker"
}

# One command per way of coming to settings and server: for what is not worth a run of each.
SAMPLE: Final = ("enqueue", "status", "top", "ledger verify", "webhook deliveries", "cancel", "exporter")


def sampled(commands: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name: words for name, words in commands.items() if name in SAMPLE}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the commands run, and with what."""

    forks: CliForks
    folder: Path
    guarded: ValkeyProc
    silent_port: int
    stranger_port: int

    def run(self, words: tuple[str, ...], url: str | None = None, **options: Any) -> Ran:
        env = {"DARKROOM_BROKER__URL": self.guarded.url(1), "COLUMNS": "80", **options.pop("env", {})}
        if url is not None:
            env["DARKROOM_REDIS__URL"] = url
        return self.forks.run(words, cwd=self.folder, env=env, **options)

    def run_all(self, commands: Mapping[str, tuple[str, ...]], **options: Any) -> dict[str, Ran]:
        """Run them, some at once: they mostly wait."""
        with ThreadPoolExecutor(len(commands) if options.pop("together", False) else AT_ONCE) as pool:
            runs = {name: pool.submit(self.run, words, **options) for name, words in commands.items()}
            return {name: future.result() for name, future in runs.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Give a guarded server, one that accepts and never answers, and one that is no Redis."""
    folder = tmp_path_factory.mktemp("bad-days")
    (folder / "jobs.jsonl").write_text('{"model": "wan2.7-image", "prompt": "a heron prompt-canary"}\n')
    (folder / "export.csv").write_text("generation,images\ngeneration-1,1\n")
    with ExitStack() as stack:
        guarded = stack.enter_context(ValkeyProc(folder / "guarded", password=PASSWORD))
        forks = stack.enter_context(CliForks(folder / "runs"))
        silent = stack.enter_context(closing(socket.create_server((HOST, 0), backlog=500)))
        stranger = stack.enter_context(closing(socket.create_server((HOST, 0), backlog=500)))
        threading.Thread(target=_answer_http, args=(stranger,), daemon=True).start()
        yield Place(forks, folder, guarded, silent.getsockname()[1], stranger.getsockname()[1])
        stranger.shutdown(socket.SHUT_RDWR)


def _answer_http(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with closing(connection):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nstranger-canary")


def complaints(
    runs: Mapping[str, Ran], said: str, *, code: int = EXIT_SETUP, within_s: float = ENOUGH_S
) -> list[str]:
    """Say what is wrong with how commands ended; `said` has to be in each one's line."""
    found = []
    for name, ran in runs.items():
        lines = ran.err.splitlines()
        wrong = [
            (ran.code != code, f"exit status {ran.code}, not {code}"),
            (ran.took_s > within_s, f"took {ran.took_s:.1f} s"),
            (ran.out != "", f"wrote {ran.out[:200]!r}"),
            (len(lines) != 1, f"said {len(lines)} lines"),
            (not ran.err.startswith("darkroom: "), "not the command line's words"),
            (said not in ran.err, f"does not say {said!r}"),
            (not REMEDY.search(ran.err), "does not say what to do"),
            ("Traceback" in ran.err, "a traceback"),
            ("canary" in ran.err + ran.out, "a secret"),
        ]
        found += [f"{name}: {what}; {ran.err[:300]!r}" for is_so, what in wrong if is_so]
    return found


def test_every_command_has_a_case() -> None:
    """A new command is written into CASES, and so into all tests here."""
    assert sorted(THERE - _ALL.keys()) == []


BAD_SERVERS: Final[dict[str, tuple[Callable[[Place], str], str]]] = {
    "down": (lambda _: f"redis://:{WRONG}@{HOST}:{free_ports(1)[0]}/0", "no Redis at 127.0.0.1:"),
    "wrong password": (
        lambda place: f"redis://:{WRONG}@{HOST}:{place.guarded.port}/0",
        "refuses the credentials",
    ),
    "no password": (lambda place: f"redis://{HOST}:{place.guarded.port}/0", "refuses the credentials"),
    "no Redis at all": (lambda place: f"redis://:{WRONG}@{HOST}:{place.stranger_port}/0", "is no Redis"),
    "no such host": (lambda _: f"redis://:{WRONG}@nowhere.invalid:6379/0", "no Redis at nowhere.invalid"),
    "no such database": (
        lambda place: f"redis://:{PASSWORD}@{HOST}:{place.guarded.port}/99",
        "DB index is out of range",
    ),
    "no URL": (lambda _: f"redis://:{WRONG}@host:port/0", "setting redis.url"),
    "no Redis URL": (lambda _: f"http://:{WRONG}@host:1/0", "setting redis.url"),
    "no number": (lambda place: place.guarded.url(0) + "zero", "setting redis.url"),
    "no such option": (lambda place: place.guarded.url(0) + "?canary=1", "setting redis.url"),
}


@pytest.mark.parametrize("kind", list(BAD_SERVERS))
def test_a_state_server_that_cannot_be_used(place: Place, kind: str) -> None:
    """One line that says which of all the ways it is, and ends with 2."""
    make_url, said = BAD_SERVERS[kind]
    commands = NEED_STATE if kind in ("down", "wrong password", "no URL") else sampled(NEED_STATE)
    assert complaints(place.run_all(commands, url=make_url(place)), said) == []


@pytest.fixture(scope="module")
def silenced(place: Place) -> dict[str, Ran]:
    """Run all of them against a server that accepts connections and never answers."""
    url = f"redis://:{WRONG}@{HOST}:{place.silent_port}/0"
    commands = NEED_STATE | {"doctor": ("doctor", "--producer")}
    return place.run_all(commands, url=url, env={"DARKROOM_BROKER__URL": url}, together=True)


def test_a_silent_server_is_told_from_one_that_is_not_there(silenced: dict[str, Ran]) -> None:
    """Every command gives it up within 10 s, and says that it hangs."""
    runs = {name: ran for name, ran in silenced.items() if name != "doctor"}
    assert complaints(runs, "does not answer in time") == []


def test_a_silent_broker_holds_nobody_up(place: Place) -> None:
    """Hints are disposable: jobs are enqueued, and the command ends."""
    ran = place.run(
        ("enqueue", "jobs.jsonl"),
        place.guarded.url(2),
        env={"DARKROOM_BROKER__URL": f"redis://:{WRONG}@{HOST}:{place.silent_port}/1"},
    )
    assert (ran.code, ran.err) == (0, "")
    assert "1 enqueued" in ran.out
    assert ran.took_s < ENOUGH_S


@pytest.mark.parametrize("kind", ["down", "silent", "wrong password", "no URL"])
def test_doctor_reports_instead(place: Place, silenced: dict[str, Ran], kind: str) -> None:
    """What is wrong is its result: a line with what to do, exit status 1, within 10 s."""
    if kind == "silent":
        ran, said = silenced["doctor"], "does not answer in time"
    else:
        make_url, said = BAD_SERVERS[kind]
        url = make_url(place)
        ran = place.run(("doctor", "--producer"), url, env={"DARKROOM_BROKER__URL": url})
    (line,) = [line for line in ran.out.splitlines() if line.startswith("error") and " state " in line]
    assert said in line
    assert REMEDY.search(line)
    assert ran.code == EXIT_JOBS
    assert ran.took_s < ENOUGH_S
    assert "canary" not in ran.out + ran.err


BAD_SETTINGS: Final[dict[str, tuple[bytes, str]]] = {
    "not TOML": (b"[redis\nurl = 'canary'", "is not TOML"),
    "not UTF-8": (b"\xff\xfe\x00", "is not UTF-8"),
    "a typo": (b"[redis]\nurll = 'canary'", "there is no setting redis.urll; did you mean redis.url?"),
    "a wrong type": (b"[redis]\nsocket_timeout_s = 'canary'", "setting redis.socket_timeout_s"),
    "a table where a word is": (b"tenant = { canary = 1 }", "setting tenant"),
    "a secret where its place is named": (b"[webhooks]\nsecret = 'whsec_canary'", "setting webhooks.secret"),
}


@pytest.mark.parametrize("kind", list(BAD_SETTINGS))
def test_a_wrong_settings_file(place: Place, kind: str) -> None:
    """One line with the key and where it is set; never the value."""
    text, said = BAD_SETTINGS[kind]
    path = place.folder / f"{kind.replace(' ', '-')}.toml"
    path.write_bytes(text)
    commands = READ_SETTINGS if kind in ("not TOML", "a typo") else sampled(READ_SETTINGS)
    assert complaints(place.run_all(commands, env={"DARKROOM_CONFIG": str(path)}), said) == []


def test_a_settings_file_that_cannot_be_read(place: Place) -> None:
    """A folder, say."""
    runs = place.run_all(sampled(READ_SETTINGS), env={"DARKROOM_CONFIG": str(place.folder)})
    assert complaints(runs, "Is a directory. Check DARKROOM_CONFIG.") == []


def test_a_settings_file_that_is_not_there(place: Place) -> None:
    """It need not exist; that one was named in vain, doctor points out."""
    env = {"DARKROOM_CONFIG": str(place.folder / "none.toml")}
    ran = place.run(("doctor", "--producer"), place.guarded.url(0), env=env)
    (line,) = [line for line in ran.out.splitlines() if "DARKROOM_CONFIG" in line]
    assert line.startswith("warning")
    assert "none.toml, which does not exist. Correct it" in line


def test_a_variable_that_is_not_json(place: Place) -> None:
    """The variable is named, and its text is not shown."""
    runs = place.run_all(sampled(READ_SETTINGS), env={"DARKROOM_ACCOUNTS": "{canary"})
    assert complaints(runs, "DARKROOM_ACCOUNTS is not JSON") == []


def test_an_unknown_option(place: Place) -> None:
    """What it is, and where the right ones are listed. Worker, Flower and sandbox pass options on: see below."""
    passing = ("worker", "flower", "sandbox")
    commands = {
        name: (*name.split(), *case.words, "--zzz") for name, case in CASES.items() if name not in passing
    }
    runs = place.run_all(commands)
    assert complaints(runs, "No such option: --zzz. See `darkroom ") == []


def test_an_option_with_a_typo(place: Place) -> None:
    """The right one is suggested."""
    helps = place.run_all({name: (*name.split(), "-h") for name in CASES})
    assert all(ran.code == 0 and ran.out.startswith("Usage: darkroom") for ran in helps.values())
    commands = {
        name: (*name.split(), *case.words, "--jsno")
        for name, case in CASES.items()
        if "--json" in helps[name].out
    }
    assert len(commands) > len(CASES) / 2
    assert complaints(place.run_all(commands), "--json") == []


def test_a_command_with_a_typo(place: Place) -> None:
    """The right one is suggested: two letters have changed places."""
    swapped = {name: name[:-2] + name[-1] + name[-2] for name in CASES}
    runs = place.run_all({name: tuple(typo.split()) for name, typo in swapped.items()})
    for name, ran in runs.items():
        said = f"No such command '{swapped[name].split()[-1]}'. Did you mean '{name.split()[-1]}'"
        assert complaints({name: ran}, said) == []


@pytest.mark.parametrize("words", [("worker", "--zzz"), ("sandbox", "zzz"), ("sandbox",)], ids=" ".join)
def test_words_that_are_passed_on(place: Place, words: tuple[str, ...]) -> None:
    """Their owner says what is wrong: exit status 2, no traceback."""
    ran = place.run(words, place.guarded.url(0))
    assert ran.code == EXIT_SETUP
    assert "usage" in ran.err.lower()
    assert "Traceback" not in ran.err


def test_a_port_that_is_taken(place: Place) -> None:
    """One line with the address, and nothing else is tried."""
    env = {"DARKROOM_FLOWER_AUTH": "operator:canary"}
    port = str(place.stranger_port)
    runs = {name: place.run((name, "--port", port), env=env) for name in ("flower", "exporter")}
    assert complaints(runs, f"cannot be served at {HOST}:{port} (EADDRINUSE). Choose another") == []


def test_help_of_a_part_of_the_sandbox_lists_its_options(place: Place) -> None:
    """The part's own, since the command has none."""
    for part, option in (("provider", "--latency"), ("sink", "--secret-env")):
        ran = place.run(("sandbox", part, "-h"))
        assert (ran.code, option in ran.out) == (0, True), ran
    ran = place.run(("sandbox", "sink", "--port", "99999"))
    assert (ran.code, "from 0 to 65535" in ran.err) == (EXIT_SETUP, True), ran


def test_a_command_without_what_it_needs(place: Place) -> None:
    """A missing argument is named."""
    commands = {name: tuple(name.split()) for name in ("estimate", "reconcile", "unknown resolve", "freeze")}
    assert complaints(place.run_all(commands), "Missing argument") == []
    selecting = {name: (name,) for name in ("cancel", "pause", "resume", "redrive", "purge")}
    runs = place.run_all(selecting)
    assert complaints(runs, "--batch") == []
    helps = place.run_all({name: (name, "-h") for name in selecting})
    for name, ran in runs.items():
        named = re.findall(r"--[a-z-]+", ran.err)
        assert [option for option in named if option not in helps[name].out] == [], name


READERS: Final = {
    "enqueue": ("enqueue",), "estimate": ("estimate",), "reconcile": ("reconcile", "--no-objects"),
}  # fmt: skip
ENQUEUERS: Final = {name: words for name, words in READERS.items() if name != "reconcile"}
UNREADABLE: Final = {
    "missing": ("none.jsonl", "cannot read none.jsonl: No such file or directory"),
    "a folder": ("folder.jsonl", "cannot read folder.jsonl: Is a directory"),
    "below a file": ("jobs.jsonl/x", "cannot read jobs.jsonl/x: Not a directory"),
    "a bad disk": ("/proc/self/mem", "Input/output error"),
    "UTF-16": ("utf16.jsonl", "the input is UTF-16"),
    "binary with a header": ("binary.csv", "is not UTF-8"),
}


@pytest.fixture(scope="module")
def inputs(place: Place) -> Path:
    """Files that are not what they should be."""
    (place.folder / "folder.jsonl").mkdir()
    (place.folder / "utf16.jsonl").write_bytes('{"prompt": "canary"}\n'.encode("utf-16"))
    (place.folder / "binary.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0canary\n" * 20)
    (place.folder / "binary.jsonl").write_bytes(b"\x89PNG\r\n\x1a\n\0\0canary\n" * 20)
    (place.folder / "empty.jsonl").touch()
    return place.folder


@pytest.mark.parametrize("kind", list(UNREADABLE))
@pytest.mark.usefixtures("inputs")
def test_an_input_that_cannot_be_read(place: Place, kind: str) -> None:
    """One line, exit status 2."""
    name, said = UNREADABLE[kind]
    told = ("--format", "jsonl") if kind == "a bad disk" else ()
    commands = {each: (*words, name, *told) for each, words in READERS.items()}
    assert complaints(place.run_all(commands, url=place.guarded.url(0)), said) == []


@pytest.mark.usefixtures("inputs")
def test_an_empty_input_is_no_error(place: Place) -> None:
    """It says that nothing was done."""
    for ran in place.run_all(
        {each: (*words, "empty.jsonl") for each, words in ENQUEUERS.items()}, url=place.guarded.url(0)
    ).values():
        assert ran.code == 0
        assert "nothing was enqueued" in (ran.out + ran.err).lower()


@pytest.mark.usefixtures("inputs")
def test_a_binary_input_is_rejected_line_by_line(place: Place) -> None:
    """Some lines are named, nothing of them is quoted; exit status 1."""
    for ran in place.run_all(
        {each: (*words, "binary.jsonl") for each, words in ENQUEUERS.items()}, url=place.guarded.url(0)
    ).values():
        assert ran.code == EXIT_JOBS
        assert "line is not UTF-8" in ran.err
        assert "more rejected lines" in ran.err
        assert "canary" not in ran.err + ran.out
        assert all(char.isprintable() for char in ran.err.replace("\n", ""))


@pytest.mark.parametrize("where", ["nowhere/rejects", "folder.jsonl"])
@pytest.mark.usefixtures("inputs")
def test_rejects_that_cannot_be_written(place: Place, where: str) -> None:
    """The line says so before anything is enqueued that nobody could find again."""
    ran = place.run(("enqueue", "binary.jsonl", "--rejects", where), place.guarded.url(0))
    assert complaints({"enqueue": ran}, f"cannot write {where}") == []


WORK: Final = {
    "enqueue": ("enqueue", "jobs.jsonl"),
    **{name: (*name.split(), *CASES[name].words) for name in (
        "status", "top", "freeze", "pause", "audit", "doctor", "unknown list", "webhook secret", "estimate", "spend",
        "ledger verify",
    )},
    "watch": ("watch",),
}  # fmt: skip


@pytest.fixture(scope="module")
def frozen(place: Place) -> str:
    """A database with something in it to show, which the commands of WORK do not change any more."""
    url = place.guarded.url(3)
    assert place.run(("enqueue", "jobs.jsonl", "--batch", "b"), url).code == 0
    assert place.run(("freeze", "everything", "--why", "a reason"), url).code == 0
    assert place.run(WORK["pause"], url).code == 0
    return url


def test_a_reader_that_is_gone(place: Place, frozen: str) -> None:
    """`darkroom ... | head`: no word, and the status that a shell gives for SIGPIPE."""
    quick = {name: words for name, words in WORK.items() if name != "watch"}
    for name, ran in place.run_all(quick, url=frozen, stdout=GONE).items():
        assert (name, ran.code, ran.err) == (name, EXIT_PIPE, "")
        assert ran.took_s < ENOUGH_S


def test_a_disk_that_is_full(place: Place, frozen: str) -> None:
    """What could not be written is said in one line."""
    quick = {name: words for name, words in WORK.items() if name != "watch"}
    runs = place.run_all(quick, url=frozen, stdout="/dev/full")
    assert complaints(runs, "cannot write: No space left on device") == []


def test_piped_output_has_no_colours_and_no_folds(place: Place, frozen: str) -> None:
    """Whatever the width of the terminal that it was started from."""
    quick = {name: words for name, words in WORK.items() if name not in ("watch", "webhook secret")}
    wide = place.run_all(quick, url=frozen, env={"COLUMNS": "300"})
    narrow = place.run_all(quick, url=frozen, env={"COLUMNS": "40"})
    for name in quick:
        assert "\x1b" not in narrow[name].out + narrow[name].err, name
        shapes = [len(ran[name].out.splitlines()) for ran in (wide, narrow)]
        assert name in ("audit", "freeze", "pause") or shapes[0] == shapes[1], name


class Terminal:
    """A pseudo-terminal; what is written to it is collected."""

    def __init__(self, columns: int) -> None:
        self._mine, self._theirs = pty.openpty()
        self.path = os.ttyname(self._theirs)
        _resize(self._theirs, columns)
        self._text = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._mine, 65_536)
            except OSError:  # the last writer has closed it
                return
            self._text.extend(chunk)

    def close(self) -> str:
        """Give what was written."""
        os.close(self._theirs)
        self._reader.join()
        os.close(self._mine)
        return self._text.decode()


def _resize(descriptor: int, columns: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


@pytest.mark.parametrize("no_color", [False, True], ids=["colours", "NO_COLOR"])
def test_a_narrow_terminal(place: Place, frozen: str, no_color: bool) -> None:
    """40 columns: tables still come out, and NO_COLOR leaves no colour."""
    env = {"COLUMNS": "40", "TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_color else {})
    coloured = 0
    for name, words in WORK.items():
        if name in ("watch", "freeze", "pause", "enqueue"):
            continue
        terminal = Terminal(40)
        ran = place.run(words, frozen, env=env, stdout=terminal.path)
        text = terminal.close()
        assert ran.code in (0, EXIT_JOBS), (name, ran)
        assert text.strip(), name
        assert "Traceback" not in text + ran.err, name
        colours = re.findall(r"\x1b\[[0-9;]*m", text)
        coloured += len(colours)
        assert not no_color or not re.search(r"\x1b\[(?:\d+;)*[34]\d", text), (name, text)
    assert no_color or coloured
