"""All settings: one annotated table. Every key has its unit in its name, a default, and the reason for it.

Sources, strongest first: constructor arguments; environment (`DARKROOM_REDIS__URL=...`, nesting by `__`);
`darkroom.toml` in the working directory (or the file named by `DARKROOM_CONFIG`); the stack that `darkroom dev`
runs for this user, if any; the defaults here. Secrets are given by reference (the name of an environment
variable, or a file): this table never holds one.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args, get_origin

from pydantic import AnyHttpUrl, BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from shared.errors import ConfigurationError
from shared.settings_layers import PREFIX, layered
from shared.settings_section import SecretReference, Section
from shared.settings_surface import DoorSettings, FlowerSettings, LogSettings, MetricsSettings

DAY_S = 86_400
MOST_MICROS = 10**12  # a million an image: scripts count in doubles, exactly to 2^53
Micros = Annotated[int, Field(ge=0, le=MOST_MICROS, description="millionths of the account's currency unit")]


class RedisSettings(Section):
    """The state Redis: the only truth. AOF on, `maxmemory-policy noeviction`."""

    url: str = Field("redis://127.0.0.1:6379/0", description="state server and database")
    namespace: str = Field("darkroom", pattern=r"^[a-z0-9_-]{1,32}$", description="hash tag of every key")
    durability: Literal["everysec", "strict"] = Field(
        "everysec",
        description="`strict` demands appendfsync always; everysec may lose about 1 s on power loss",
    )
    socket_timeout_s: float = Field(
        6,
        gt=0,
        description="a server that does not answer is given up after this: no producer hangs for 10 s",
    )
    connect_timeout_s: float = Field(5, gt=0, description="a blackholed address fails after this")
    max_connections: int = Field(64, ge=1, description="per process; callers wait for one, none fails")


class BrokerSettings(Section):
    """Celery's broker: carries disposable hints only and may be lost at any time."""

    url: str = Field("redis://127.0.0.1:6379/1", description="standalone or Sentinel")
    sentinel_master: str | None = Field(None, description="name of the master, for a sentinel:// URL")


class AccountSettings(Section):
    """One account at a provider. With each of its models it forms a lane: (account, model)."""

    provider: Literal["gateway"] = Field("gateway", description="which API it speaks")
    base_url: AnyHttpUrl = Field(
        AnyHttpUrl("https://gccai.heqingsong.uk/v1"), description="with or without a trailing /v1"
    )
    api_key: SecretReference = Field(
        SecretReference(env="DARKROOM_API_KEY"), description="bearer key of the account"
    )
    models: tuple[str, ...] = Field(
        ("wan2.7-image", "wan2.7-image-pro"), description="each is a lane of its own: quota, health, price"
    )
    currency: str = Field("CNY", pattern=r"^[A-Z]{3}$", description="the vendor's price is in yuan")
    price_micros: dict[str, Micros] = Field(
        default_factory=lambda: {"wan2.7-image": 200_000, "wan2.7-image-pro": 500_000},
        description="per delivered image [vendor page: ¥0.20 and ¥0.50]; a model without a price is refused",
    )
    submit_per_s: float = Field(5, ge=0, description="permits per second over all workers; 0 = unlimited")
    submit_burst: int = Field(1, ge=1, description="permits that may be used at one instant")
    max_outstanding_posts: int = Field(32, ge=1, description="bounds the unknowns of one outage")
    max_in_flight: int = Field(200, ge=1, description="generations running at the provider at once")
    poll_per_s: float = Field(
        20, ge=0, description="status queries per second over all workers; 0 = unlimited"
    )
    poll_burst: int = Field(20, ge=1, description="status queries that may go at one instant")
    result_hosts: tuple[str, ...] = Field(
        (), description="if set, result URLs must be on these hosts (exact, or a suffix with a leading dot)"
    )


class StorageSettings(Section):
    """Where results are kept after the provider's URLs die. `url = "off"` pushes the provider's URLs instead."""

    url: str = Field(
        "file://darkroom-artifacts", description="s3://bucket/prefix, file://path, memory:// or off"
    )
    endpoint: str | None = Field(None, description="S3-compatible server, if not AWS")
    region: str = Field("us-east-1", description="signed into every S3 request")
    access_key_id: SecretReference | None = Field(
        None, description="S3 access key; without it the SDK's usual places are asked"
    )
    secret_access_key: SecretReference | None = Field(None, description="S3 secret key")
    session_token: SecretReference | None = Field(
        None,
        description="S3 session token, beside keys that are temporary; all three are read anew every minute",
    )
    virtual_hosted: bool = Field(
        False, description="BUCKET.host instead of host/BUCKET; some S3 services know nothing else"
    )
    allow_http: bool = Field(False, description="for an S3 server on a private network")
    links: Literal["keys", "presigned", "public"] = Field(
        "keys", description="what webhooks carry beside keys"
    )
    public_base_url: str | None = Field(None, description="for links = public")
    presign_ttl_s: int = Field(
        3600, ge=1, le=7 * DAY_S, description="life of presigned links; S3 allows seven days at most"
    )
    max_image_bytes: int = Field(64 * 1024 * 1024, ge=1, description="a 4K PNG is 20-40 MB")
    temp_dir: Path | None = Field(None, description="downloads in progress; the system's default if unset")
    fsync: bool = Field(
        True, description="file://: a put returns when the disk has it; off saves 0.1-0.5 ms of CPU per image"
    )

    @property
    def enabled(self) -> bool:
        return self.url != "off"


class EndpointSettings(Section):
    """A named webhook endpoint with a secret of its own."""

    url: AnyHttpUrl = Field(description="where its events are sent")
    secret: SecretReference = Field(description="signs its events (whsec_...)")


class WebhookSettings(Section):
    """Delivery of events by Standard Webhooks 1.0.0."""

    secret: SecretReference | None = Field(None, description="signs deliveries to URLs given on jobs")
    endpoints: dict[str, EndpointSettings] = Field(
        default_factory=dict, description="`webhook=NAME` on a job"
    )
    allow_private: bool = Field(False, description="let webhooks reach private addresses; for development")
    allow_http: bool = Field(False, description="let webhooks and result URLs use http")
    timeout_s: float = Field(15, gt=0, le=60, description="total time of one try")
    schedule_s: tuple[float, ...] = Field(
        (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, DAY_S),
        description="delay before each try; after the last the delivery is exhausted [Standard Webhooks]",
    )


class PollSettings(Section):
    """When to ask the provider again. Jitter is ±20 %."""

    first_s: float = Field(5, gt=0, description="before the first poll: nothing is finished sooner")
    fast_s: float = Field(3, gt=0, description="until fast_until_s after the submit")
    fast_until_s: float = Field(30, gt=0, description="most generations have ended by then")
    slow_s: float = Field(5, gt=0, description="until slow_until_s after the submit")
    slow_until_s: float = Field(120, gt=0, description="what runs longer is asked every max_s")
    max_s: float = Field(10, gt=0, description="from slow_until_s to the deadline")
    deadline_s: float = Field(600, gt=0, description="past it the job is polled every late_every_s")
    sequential_deadline_s: float = Field(900, gt=0, description="deadline for sequential n > 4")
    late_every_s: float = Field(
        300, gt=0, description="past the deadline: it costs little to ask, and the bill wants an answer"
    )
    give_up_s: float = Field(DAY_S, gt=0, description="then failed(lost), settled at price x n, flagged")
    missing_grace_s: float = Field(60, ge=0, description="a task may be unknown right after its submit")


class RetrySettings(Section):
    """Exponential backoff, capped, with full jitter."""

    base_s: float = Field(1, gt=0, description="upper bound of the first wait; doubles with each attempt")
    cap_s: float = Field(60, gt=0, description="no wait is longer")
    submit_attempts: int = Field(
        8, ge=1, description="not-executed answers before failed(provider_unavailable)"
    )
    retry_after_cap_s: float = Field(300, gt=0, description="a provider's Retry-After is clamped to this")


class WorkerSettings(Section):
    """How one worker process works."""

    lease_s: float = Field(12, gt=0, description="a dead worker's jobs are free after this")
    renew_s: float = Field(4, gt=0, description="a third of the lease: two renewals may fail")
    claim_size: int = Field(
        100, ge=1, le=1000, description="jobs per claim; more would block the server for longer"
    )
    drain_s: float = Field(5, gt=0, description="a stage task ends after this even if more is due")
    tick_s: float = Field(1, gt=0, description="the pacemaker's safety net")
    poll_concurrency: int = Field(100, ge=1, description="polls in flight per process")
    store_concurrency: int = Field(64, ge=1, description="jobs being copied per process")
    notify_concurrency: int = Field(64, ge=1, description="webhooks in flight per process")
    submit_timeout_s: float = Field(60, gt=0, description="total time of a POST; longer is safer")
    poll_timeout_s: float = Field(15, gt=0, description="total time of a poll")
    download_timeout_s: float = Field(120, gt=0, description="total time of one image; a 4K PNG is 20-40 MB")
    shutdown_s: float = Field(10, gt=0, description="what is not a POST gets this long after SIGTERM")
    generation_max_s: float = Field(
        600, gt=0, description="unknown and lost jobs keep their slot for this long"
    )
    resubmit_after_s: float = Field(60, ge=0, description="beyond the POST's timeout, before any resubmit")
    input_bytes: int = Field(
        32 * 1024 * 1024, ge=1, description="decoded data URIs of one job, re-inlined at submit"
    )
    submit_http: Literal["pyreqwest", "httpx"] = Field("pyreqwest", description="both pass the contract test")
    breaker_ambiguous: int = Field(5, ge=1, description="ambiguous results in a row that open the breaker")
    breaker_probe_s: float = Field(5, gt=0, description="an open breaker lets one POST through this often")
    store_trouble_s: float = Field(
        60,
        gt=0,
        description="submits wait while copies failed, or were overdue, for this long; refusals at once",
    )
    spool: Literal["off"] | Path | None = Field(
        None,
        description="folder that keeps generation ids while the state server is away; unset: in this user's state "
        "directory",
    )


class LimitSettings(Section):
    """Caps and retention."""

    backlog: int = Field(2_000_000, ge=1, description="queued jobs in all")
    backlog_per_tenant: int = Field(1_000_000, ge=1, description="so that one tenant cannot fill the backlog")
    retain_jobs_s: int = Field(7 * DAY_S, ge=1, description="records and idempotency keys, after the end")
    retain_batches_s: int = Field(30 * DAY_S, ge=1, description="batches, after their completion")
    batch_idle_seal_s: int = Field(3600, ge=1, description="an open batch seals itself after this")
    batch_stalled_s: int = Field(900, ge=1, description="only unknown jobs left for this long: batch.stalled")


_CAP_SCOPE: Final = re.compile(r"tenant:(\*|[A-Za-z0-9][A-Za-z0-9._-]{0,63})|account:[^/|]{1,64}")


class CapSettings(Section):
    """One cap: what a scope has spent and holds stays at or under `limit`, at every instant. Periods are UTC's."""

    scope: str = Field(
        description="tenant:NAME, tenant:* (each that has no cap of its own in that window), or account:NAME",
    )
    limit: Decimal = Field(
        gt=Decimal(0), decimal_places=6, description="an amount of the currency, such as 100.00"
    )
    currency: str = Field("CNY", pattern=r"^[A-Z]{3}$", description="that of the prices it limits")
    window: Literal["day", "month", "total"] = Field("total", description="begins anew each day or month")
    over_cap: Literal["wait", "reject"] = Field(
        "wait", description="reject counts queued jobs, too, and refuses new ones; for tenants only"
    )

    @property
    def limit_micros(self) -> int:
        return int(self.limit * 1_000_000)

    @field_validator("scope")
    @classmethod
    def _is_scope(cls, scope: str) -> str:
        if not _CAP_SCOPE.fullmatch(scope):
            raise ValueError(
                "a scope is tenant:NAME, tenant:* or account:NAME, of at most 64 characters each"
            )
        return scope

    @model_validator(mode="after")
    def _rejecting_is_for_tenants(self) -> Self:
        if self.over_cap == "reject" and self.scope.startswith("account:"):
            raise ValueError(
                "over_cap = reject is for tenants: which account takes a job is not known before"
            )
        return self


class Settings(BaseSettings):
    """All of it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )
    from_outside: ClassVar[bool] = True  # whether environment, file and a running `darkroom dev` are read

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - ours has better messages
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not read
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - secrets are references
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read our sources, in our order."""
        if not cls.from_outside:
            return (init_settings,)
        return (InitSettingsSource(settings_cls, layered(settings_cls, init_settings())),)

    tenant: str = Field("default", description="tenant of jobs that name none")
    redis: RedisSettings = RedisSettings()
    broker: BrokerSettings = BrokerSettings()
    accounts: dict[str, AccountSettings] = Field(default_factory=lambda: {"default": AccountSettings()})
    storage: StorageSettings = StorageSettings()
    webhooks: WebhookSettings = WebhookSettings()
    poll: PollSettings = PollSettings()
    retry: RetrySettings = RetrySettings()
    worker: WorkerSettings = WorkerSettings()
    limits: LimitSettings = LimitSettings()
    caps: tuple[CapSettings, ...] = Field((), description="of spending; see docs/money.md")
    flower: FlowerSettings = FlowerSettings()
    door: DoorSettings = DoorSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _caps_limit_a_price(self) -> Self:
        currencies = {name: account.currency for name, account in self.accounts.items()}
        for cap in self.caps:
            kind, _, name = cap.scope.partition(":")
            of = {currencies[name]} if kind == "account" and name in currencies else set(currencies.values())
            if kind == "account" and name not in currencies:
                raise ValueError(f"caps: there is no account {name}")
            if cap.currency not in of:
                raise ValueError(
                    f"caps: {cap.scope} is in {cap.currency}, and no price is; it would limit nothing"
                )
        return self

    @cached_property
    def models(self) -> frozenset[str]:
        """Every model that some account serves."""
        return frozenset(model for account in self.accounts.values() for model in account.models)

    @property
    def currency(self) -> str:
        """The one currency of all accounts; "" if they have several."""
        currencies = {account.currency for account in self.accounts.values()}
        return currencies.pop() if len(currencies) == 1 else ""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings, or raise ConfigurationError naming the key, the rule and where it may be set."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = tuple(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigurationError(_no_such(path)) from None
        raise ConfigurationError(
            f"setting {'.'.join(path)}: {first['msg'].removeprefix('Value error, ')}. "
            f"Correct {_variable(path)} or darkroom.toml."
        ) from None


def _variable(path: tuple[str, ...]) -> str:
    """Name the variable that holds a setting; for what is in a list, the list's."""
    return "DARKROOM_" + "__".join(takewhile(lambda part: not part.isdigit(), path)).upper()


def _no_such(path: tuple[str, ...]) -> str:
    """Say that a setting does not exist, and which one was likely meant."""
    from difflib import get_close_matches  # noqa: PLC0415 - for a mistake only

    where = f"Correct {_variable(path)} or darkroom.toml."
    likely = get_close_matches(path[-1], _names_beside(path), n=1)
    meant = f"; did you mean {'.'.join((*path[:-1], *likely))}?" if likely else "."
    return f"there is no setting {'.'.join(path)}{meant} {where}"


def _names_beside(path: tuple[str, ...]) -> list[str]:
    """Give the settings of the table that a path leads to."""
    table: type[BaseModel] = Settings
    named = False  # the next part is a name or a place among equals, such as an account's
    for part in path[:-1]:
        if named:
            named = False
            continue
        kind: Any = table.model_fields[part].annotation
        named = get_origin(kind) in (dict, tuple)
        table = next(each for each in (kind, *get_args(kind)) if isinstance(each, type(BaseModel)))
    return list(table.model_fields)
