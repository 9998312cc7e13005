"""The worker: `celery -A workers.app worker -P threads`, or plainly `celery -A workers.app worker`.

The app is made when `app` is first asked for. Settings that are wrong, a state Redis that is missing or unfit, or
another pool end the process with exit code 2 and one line on stderr that says what to do.

A worker starts by checking the state server; then start the events, the runtime and the pacemaker; then Celery's
consumer, which may wait for its broker for as long as it likes. At SIGTERM claims stop in the signal handler, and
a thread of our own drains: the runtime waits for its POSTs in flight, and a little for everything else. Meanwhile
Celery stops its consumer; should a silent broker hold that up, the process ends without it. The exit code is ours
(workers.ending).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import structlog
from celery import bootsteps, signals
from celery.concurrency.thread import TaskPool
from celery.platforms import EX_OK

from shared.broker import HintPublisher, make_app
from shared.errors import DarkroomError
from shared.redis.client import check_server, make_client
from shared.redis.keys import Keys
from shared.redis.looks import look
from shared.settings import load_settings
from workers import broker_channel, celeryconfig, logs, metrics, tasks
from workers.control import install as install_control
from workers.door import Door
from workers.ending import EXIT_REFUSED, CutOff, Ending
from workers.event_loop import EventLoop
from workers.flower import job_events
from workers.pacemaker import HINT_TTL_MS, Pacemaker
from workers.tasks import serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from shared.settings import Settings
    from shared.telemetry import Metric
    from workers.flower import Events
    from workers.tasks import Runtime

log = structlog.get_logger(__name__)

LAST_RESORT_S: Final = 3.0  # beyond every bound of a drain, and within compose's stop_grace_period of 75 s
LINGER_S: Final = 5.0  # for Celery to end by itself once all is drained
# Their INFO lines tell of every hint or request.


class StartRuntime(Protocol):
    """Makes and starts the runtime of a process on its running event loop.

    `arm(stage, lane, in_ms)` has the pacemaker look there; it and `events` may be used from any thread, at once.
    """

    def __call__(
        self,
        settings: Settings,
        worker: str,
        loop: EventLoop,
        events: Events,
        arm: Callable[[str, str, int], None],
        /,
    ) -> Runtime: ...


def start_runtime(
    settings: Settings, worker: str, loop: EventLoop, events: Events, arm: Callable[[str, str, int], None], /
) -> Runtime:
    """Start the real one. Imported by workers only: `celery inspect` and Flower load this module too."""
    from workers import bootstrap  # noqa: PLC0415

    bootstrap.check_store(settings)
    return bootstrap.Runtime(settings, worker, loop, events, arm)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the worker processes of an app are to be."""

    settings: Settings
    start: StartRuntime
    ending: Ending = field(default_factory=Ending)


def build_app(settings: Settings, start: StartRuntime = start_runtime) -> Celery:
    """Make the app of a worker. Raises ConfigurationError."""
    app, plan = make_app(settings), Plan(settings, start)
    app.conf.update({key: value for key, value in vars(celeryconfig).items() if _is_setting(key)})
    tasks.register(app)
    if settings.door.enabled:
        tasks.open_door(app)
    install_control()
    broker_channel.install()
    app.steps["worker"].add(_step(plan))

    def own(instance: Any, **_: Any) -> None:
        if instance.app is app:
            plan.ending.own()

    def check(sender: Any, **_: Any) -> None:
        if sender.app is app:
            _check_worker(sender, settings)

    signals.celeryd_init.connect(own, weak=False)
    signals.worker_init.connect(check, weak=False)
    set_up = partial(logs.set_up, settings)
    signals.setup_logging.connect(set_up, weak=False, dispatch_uid="darkroom-logging")
    return app


def _is_setting(name: str) -> bool:
    return not name.startswith("_") and name != "annotations"


def __getattr__(name: str) -> Celery:
    """Make `app` when it is first asked for."""
    if name != "app":
        raise AttributeError(name)
    return _process_app()


@cache
def _process_app() -> Celery:
    try:
        return build_app(load_settings())
    except DarkroomError as error:
        refuse(error)


def refuse(error: Exception) -> NoReturn:
    """End the process: one line, exit code 2."""
    sys.stderr.write(f"darkroom worker: {error}\n")
    raise SystemExit(EXIT_REFUSED)


def _check_worker(worker: Any, settings: Settings) -> None:
    """Refuse to start what could not serve; leave out what only costs (both have no setting)."""
    if worker.pool_cls not in (TaskPool, "threads"):
        refuse(DarkroomError("only the threads pool serves; leave out -P, or use -P threads."))
    worker.options.update(without_gossip=True, without_mingle=True)
    try:
        with make_client(settings.redis) as client:
            check_server(client, settings)
    except DarkroomError as error:
        refuse(error)


class Process:
    """What serves in this process beside Celery: events, event loop, runtime, pacemaker."""

    def __init__(self, plan: Plan, app: Celery, hostname: str) -> None:
        self._plan, self._name = plan, f"{hostname}:{os.getpid()}"
        settings = plan.settings
        self._open = ExitStack()
        self.loop = EventLoop()
        self.events = job_events(app, settings.flower, hostname)
        self.hints = HintPublisher(app, on_failed=self._spawn)
        self._state = make_client(settings.redis)
        look_at = partial(
            look,
            self._state,
            Keys.of(settings.redis.namespace),
            worker=self._name,
            alive_ms=int(settings.worker.lease_s * 1000),
            hint_ttl_ms=HINT_TTL_MS,
            k=settings.worker.claim_size,
        )
        self.pacemaker = Pacemaker(
            look_at,
            self.hints.hint,
            tick_s=settings.worker.tick_s,
            able=lambda: not self.loop.is_stuck(settings.worker.renew_s),
        )
        self.runtime: Runtime | None = None
        # Its put() may interrupt itself, so signals may use it.
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._stopping, self._closed = False, threading.Event()
        self._ending = plan.ending

    def start(self) -> None:
        """Start all, each after what it uses. Raises what the runtime's start raises."""
        threading.Thread(target=self._close_when_asked, name="darkroom-closer", daemon=True).start()
        self._ending.served(self._closed, self.stop_claims)
        closing = self._open.callback
        closing(self._state.close)
        self.events.start()
        closing(self.events.close)
        closing(self.hints.close, timeout_s=0)
        self.loop.start()
        closing(self.loop.stop, self._plan.settings.worker.shutdown_s)
        self.runtime = serving.runtime = self._plan.start(
            self._plan.settings, self._name, self.loop, self.events, self.pacemaker.arm
        )
        closing(setattr, serving, "runtime", None)
        closing(self.runtime.close)
        if self._plan.settings.door.enabled:
            serving.door = Door(self._plan.settings, self.pacemaker.arm)
            closing(serving.door.close)
            closing(setattr, serving, "door", None)
        unserve = metrics.serve(self._plan.settings.metrics, self._counters())
        if unserve is not None:
            closing(unserve)
        self.pacemaker.start(self.runtime)
        closing(self.pacemaker.stop)
        signals.worker_shutting_down.connect(self._asked_to_end, weak=False)
        closing(signals.worker_shutting_down.disconnect, self._asked_to_end)

    def _counters(self) -> dict[Metric, Callable[[], float]]:
        return {
            metrics.EVENTS_SENT: lambda: self.events.sent,
            metrics.EVENTS_DROPPED: lambda: self.events.dropped,
            metrics.HINTS_SENT: lambda: self.hints.published,
            metrics.HINTS_DROPPED: lambda: self.hints.failed,
        }

    def _asked_to_end(self, **_: Any) -> None:
        self._ending.ask()
        self.stop_claims()

    def stop_claims(self) -> None:
        """Take no new work and have the rest drained. Runs in the signal handler of SIGTERM: no locks, no I/O."""
        if self._stopping:
            return
        self._stopping = True
        self.pacemaker.halt()
        if self.runtime is not None:
            self.runtime.stop_claims()
        self._asked.put(None)

    def stop(self) -> None:
        """Drain within bounds and close everything in reverse order; returns when that is done."""
        self.stop_claims()
        try:
            self._closed.wait()
        except SystemExit:  # Celery's answer to a third Ctrl-C
            self._ending.insisted = True
            raise

    def _close_when_asked(self) -> None:
        """Close on a thread that does not depend on Celery.

        Its consumer stops before any bootstep does, and hangs there for as long as a silent broker does.
        """
        self._asked.get()
        worker = self._plan.settings.worker
        within_s = worker.submit_timeout_s + worker.shutdown_s + LAST_RESORT_S
        last_resort = threading.Timer(within_s, self._overdue)
        last_resort.daemon = True
        last_resort.start()
        try:
            self._open.close()
        except CutOff as cut:
            self._ending.left = True
            log.warning("work_left_behind", members=cut.members, transitions=cut.transitions)
        except Exception:  # Celery must end all the same
            self._ending.left = True
            log.exception("shutdown_fault")
        finally:
            last_resort.cancel()
            self._closed.set()
        time.sleep(LINGER_S)
        log.warning("consumer_cut_off")
        self._ending.now()

    def _overdue(self) -> None:
        """End the process. What is still leased ends by itself, as after a kill."""
        self._ending.left = True
        log.warning("shutdown_overdue")
        self._ending.now()

    def _spawn(self, stage: str, lane: str) -> None:
        if self.runtime is not None:
            self.runtime.spawn_stage(stage, lane)


def _step(plan: Plan) -> type[bootsteps.StartStopStep]:
    """Make the bootstep. Celery makes its instances, so the plan travels in the class."""

    class ServingStep(bootsteps.StartStopStep):
        """Serves between the pool, which it needs, and the consumer, which Celery starts last and stops first."""

        requires = ("celery.worker.components:Pool",)
        process: Process

        def start(self, parent: Any) -> None:
            self.process = Process(plan, parent.app, parent.hostname)
            plan.ending.stop_warmly()
            try:
                self.process.start()
            except DarkroomError as error:
                plan.ending.refused = True
                self.process.stop()
                refuse(error)
            except BaseException:  # Celery stops no step before the last has started
                self.process.stop()
                raise

        def stop(self, parent: Any) -> None:
            if parent.exitcode == EX_OK:  # remote control asks without a signal
                plan.ending.ask()
            self.process.stop()

        def terminate(self, parent: Any) -> None:
            self.stop(parent)

    return ServingStep
