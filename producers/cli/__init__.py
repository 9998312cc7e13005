"""The command line: `darkroom`.

Exit codes: 0 done; 1 something is wrong with jobs (some were rejected, failed, or are unknown; no such job), or with
what `doctor` looked at; 2 the command, a setting, or Redis; 70 a fault of ours; 130 Ctrl-C, 141 the reader of a pipe
is gone. Errors are one line on stderr: what is wrong, and what to do.
Modules here import what is heavy inside functions, so that `darkroom --help` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Final, NoReturn

EXIT_JOBS: Final = 1
EXIT_SETUP: Final = 2
EXIT_FAULT: Final = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED: Final = 130
EXIT_PIPE: Final = 141  # as a shell gives for SIGPIPE
TRACEBACK: Final = "DARKROOM_TRACEBACK"  # set: show where a fault of ours happened


def main() -> NoReturn:
    """Run the command line, and end the process with its exit code."""
    _open_what_is_closed()
    try:
        code = _run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        code = EXIT_PIPE
    except OSError as error:
        code = _unwritten(error)
    except Exception as error:  # noqa: BLE001 - nobody above could say it in one line
        code = _fault(error)
    _end(code)


def _open_what_is_closed() -> None:
    """Give a stream that was closed before us (`>&-`) a place to be: Python has none for it."""
    sys.stdin = sys.stdin or os.fdopen(os.open(os.devnull, os.O_RDONLY))
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _end(code: int) -> NoReturn:
    """End without Python's teardown: a thread of the object store's that hands over a result then aborts (SIGABRT)."""
    sys.stderr.flush()
    os._exit(code)


def _run() -> int:
    from producers.cli.app import run
    from shared.errors import ConfigurationError, DarkroomError, InvalidRequest, StateUnavailable

    try:
        return run()
    except (ConfigurationError, InvalidRequest, StateUnavailable) as error:
        say(str(error))
        return EXIT_SETUP
    except DarkroomError as error:
        say(str(error))
        return EXIT_JOBS


def _fault(error: Exception) -> int:
    """Say what no command foresaw; its text may quote anything, so only its name is shown."""
    if TRACEBACK in os.environ:
        raise error
    say(
        f"a fault of Darkroom itself ({type(error).__name__}). Run it again with {TRACEBACK}=1 and report it."
    )
    return EXIT_FAULT


def _unwritten(error: OSError) -> int:
    """Tell a full or broken disk, which no command can foresee, from a fault of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        said = f"cannot write: {error.strerror}. Free some space or write elsewhere, and run it again."
    elif error.errno == errno.EIO:
        said = "reading or writing failed: Input/output error. Look at the file and its disk."
    else:
        return _fault(error)
    _drop_output()
    say(said)
    return EXIT_SETUP


def _drop_output() -> None:
    """Let what is still buffered go nowhere: Python would complain of it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Write one line of trouble."""
    sys.stderr.write(f"darkroom: {one_line(text)}\n")


def one_line(text: str) -> str:
    """Keep a message on its line, and the terminal's control characters out of it."""
    return "".join(char if char.isprintable() else " " for char in text)
