"""The object store: s3://bucket/prefix, file://path, memory://; one behaviour, whichever it is.

Artifacts lie at `{tenant}/{job_id}/{index}.{ext}`, inputs at `inputs/{tenant}/{sha256}.{ext}`. An object is put
create-only and whole: no reader sees part of one, no put replaces one, and a put of what is there already is success.
How that is kept:

- s3: one PUT with `If-None-Match: *` and the body's SHA-256, which the server checks. obstore has no conditional
  multipart upload, so the body is in memory meanwhile, also a large one: all bodies together stay within
  `object_writers.BODIES_BYTES`, whatever the concurrency.
- file: see `shared.object_folder`. memory: belongs to the `ObjectStore` that opened it; for tests.

After each put the stored size is compared. A truncated object that this very put created is removed again.
Trouble is StorageError, whose text never quotes the library's: that may hold access key ids and whole answers.
The coroutines of one ObjectStore belong to one event loop.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote, urlsplit

import obstore
from obstore.store import LocalStore, MemoryStore, S3Store

from shared.errors import ConfigurationError, StorageConflict, StorageError
from shared.jobs.names import NAME_PATTERN
from shared.object_folder import ObjectFolder
from shared.object_trouble import translating
from shared.object_writers import FolderWriter, Made, Put, RemoteWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from obstore.store import S3Config, S3Credential

    from shared.object_writers import Writer
    from shared.settings import StorageSettings
    from shared.settings_section import SecretReference

    Objects = S3Store | LocalStore | MemoryStore

CHUNK_BYTES: Final = 1024 * 1024
IDENTITY_KEY: Final = ".darkroom-store"
_CREDENTIALS_FOR: Final = timedelta(minutes=30)  # then references are read anew: secrets may be rotated
_TEMPORARY_FOR: Final = timedelta(minutes=6)  # obstore renews 5 minutes early, so temporary ones every minute

_EXTENSION: Final = re.compile(r"[a-z0-9]{1,8}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_BUCKET: Final = re.compile(r"([A-Za-z0-9._-]{3,255})(?:/([^?#\s]*))?")


def artifact_key(tenant: str, job_id: str, index: int, extension: str) -> str:
    """Give the key of one result image. Raises StorageError for a part that could lead elsewhere."""
    _check_parts((NAME_PATTERN, tenant), (NAME_PATTERN, job_id), (_EXTENSION, extension))
    if index < 0:
        raise StorageError(f"no object key can have index {index}. Count from 0.", kind="denied")
    return f"{tenant}/{job_id}/{index}.{extension}"


def input_key(tenant: str, sha256: str, extension: str) -> str:
    """Give the key of one input image; `sha256` is lower-case hex. Raises StorageError as `artifact_key` does."""
    _check_parts((NAME_PATTERN, tenant), (_SHA256, sha256), (_EXTENSION, extension))
    return f"inputs/{tenant}/{sha256}.{extension}"


def _check_parts(*parts: tuple[re.Pattern[str], str]) -> None:
    for pattern, part in parts:
        if not pattern.fullmatch(part):
            raise StorageError(
                f"{part[:80]!r} cannot be part of an object key. It must match {pattern.pattern}.",
                kind="denied",
            )


class ObjectStore:
    """One store; safe for many tasks at once. Every method raises StorageError.

    `staging` is, with file://, a directory on the folder's filesystem: a file made there is put without a copy.
    """

    def __init__(
        self, objects: Objects, writer: Writer, settings: StorageSettings, staging: Path | None = None
    ) -> None:
        self._objects, self._writer, self._settings = objects, writer, settings
        self.staging = staging

    def __repr__(self) -> str:
        return f"ObjectStore({self._settings.url})"

    async def put_file(
        self, key: str, path: Path, *, sha256: str, media_type: str, size_bytes: int
    ) -> Literal["created", "identical"]:
        """Put a file create-only. Raises StorageConflict if the key has other content (compared by sha256, hex).

        With file:// the file may become the object itself: remove it afterwards if you like, never write to it.
        """
        with translating("put", key):
            put = Put(key, path, size_bytes, media_type)
            made = await self._writer.make_async(put)
        _check_size(put, made)
        if made.created:
            return "created"
        if await self.sha256_of(key) == sha256:
            return "identical"
        raise _conflict(key)

    def put_input(self, tenant: str, payload: bytes, media_type: str, extension: str) -> str:
        """Put an input under the hash of its content and give its key; the same content twice is one object."""
        put = _input(tenant, payload, media_type, extension)
        with translating("put", put.key):
            _check_size(put, self._writer.make(put))
        return put.key

    async def put_input_async(self, tenant: str, payload: bytes, media_type: str, extension: str) -> str:
        """Do what `put_input` does."""
        put = _input(tenant, payload, media_type, extension)
        with translating("put", put.key):
            _check_size(put, await self._writer.make_async(put))
        return put.key

    async def read(self, key: str) -> bytes:
        """Give the whole object."""
        with translating("read", key):
            result = await obstore.get_async(self._objects, key)
            return bytes(await result.bytes_async())

    async def read_stream(self, key: str) -> AsyncIterator[bytes]:
        """Give the object piece by piece, each of at least CHUNK_BYTES but the last."""
        with translating("read", key):
            result = await obstore.get_async(self._objects, key)
            async for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    async def head(self, key: str) -> int | None:
        """Give the object's size in bytes; None if there is none."""
        with translating("look-up", key):
            try:
                return (await obstore.head_async(self._objects, key))["size"]
            except FileNotFoundError:
                return None

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is removed already."""
        with translating("delete", key), suppress(FileNotFoundError):
            obstore.delete(self._objects, key)

    async def list_keys(self, folder: str) -> AsyncIterator[str]:
        """Give the keys of all objects in a folder of the store, in no order."""
        with translating("list", folder):
            async for found in obstore.list(self._objects, prefix=folder):
                for each in found:
                    yield each["path"]

    async def sha256_of(self, key: str) -> str:
        """Hash what is stored (hex)."""
        digest = hashlib.sha256()
        async for chunk in self.read_stream(key):
            digest.update(chunk)
        return digest.hexdigest()

    def presign(self, key: str, ttl_s: int) -> str:
        """Give a URL that reads the object for `ttl_s`; s3 only. It ends sooner if temporary credentials do."""
        if not isinstance(self._objects, S3Store):
            raise StorageError("presigned links need s3:// storage. Set storage.links = keys or public.")
        with translating("sign", key):
            return obstore.sign(self._objects, "GET", key, timedelta(seconds=ttl_s))

    def link(self, key: str) -> str | None:
        """Give the link that the settings ask for; None for keys alone."""
        match self._settings.links:
            case "keys":
                return None
            case "public":
                return f"{(self._settings.public_base_url or '').rstrip('/')}/{quote(key)}"
            case "presigned":
                return self.presign(key, self._settings.presign_ttl_s)

    async def identity(self) -> str:
        """Give what tells this store from others: a random name kept in it, by whoever asked first.

        Two processes that read the same one use the same store, whatever they call it; or one is a copy of the other.
        """
        name = secrets.token_hex(16).encode()
        with translating("put", IDENTITY_KEY):
            await self._writer.make_async(Put(IDENTITY_KEY, name, len(name), "text/plain"))
        return (await self.read(IDENTITY_KEY)).decode(errors="replace")

    async def is_there(self) -> bool:
        """Say whether what answers is the store that `identity` was asked of: no empty mount point, no other bucket."""
        return await self.head(IDENTITY_KEY) is not None

    async def probe(self) -> None:
        """Write, read and delete a small object: all that a worker needs to be allowed."""
        payload = secrets.token_bytes(16)
        put = Put(
            f".darkroom-probe-{secrets.token_hex(8)}", payload, len(payload), "application/octet-stream"
        )
        with translating("probe", put.key):
            _check_size(put, await self._writer.make_async(put))
            try:
                found = await self.read(put.key)
            finally:
                await obstore.delete_async(self._objects, put.key)
        if found != payload:
            raise StorageError("the object store gave other bytes than it took. Check it.", key=put.key)


def _input(tenant: str, payload: bytes, media_type: str, extension: str) -> Put:
    key = input_key(tenant, hashlib.sha256(payload).hexdigest(), extension)
    return Put(key, payload, len(payload), media_type)


def _check_size(put: Put, made: Made) -> None:
    if made.size_bytes == put.size_bytes:
        return
    if not made.created:
        raise _conflict(put.key)
    raise StorageError(
        f"the object store kept {made.size_bytes} of {put.size_bytes} bytes. Check it.", key=put.key
    )


def _conflict(key: str) -> StorageConflict:
    return StorageConflict(f"object {key} exists with other content. Look at it before removing it.", key=key)


def open_store(settings: StorageSettings) -> ObjectStore:
    """Open the store that the settings name, without talking to it (a folder is made if missing).

    Raises ConfigurationError for a URL, links or credentials that cannot be used. Paths in file:// URLs are taken as
    they are (no %-escapes), relative ones from the working directory. Without credentials in the settings, s3 takes
    them from the AWS environment variables, a web identity or the instance's role.
    """
    scheme, _, rest = settings.url.partition("://")
    _check_links(settings, scheme)
    match scheme:
        case "memory":
            memory = MemoryStore()
            return ObjectStore(memory, RemoteWriter(memory), settings)
        case "file" if rest:
            return _open_folder(Path(rest), settings)
        case "s3" if match := _BUCKET.fullmatch(rest):
            s3 = _open_s3(match[1], (match[2] or "").strip("/"), settings)
            return ObjectStore(s3, RemoteWriter(s3), settings)
        case _:
            raise ConfigurationError(
                "setting storage.url is none of s3://bucket/prefix, file://path, memory://. "
                "Correct DARKROOM_STORAGE__URL."
            )


def _check_links(settings: StorageSettings, scheme: str) -> None:
    if settings.links == "public" and not settings.public_base_url:
        raise ConfigurationError("storage.links = public needs storage.public_base_url. Set it.")
    if settings.links == "presigned" and scheme != "s3":
        raise ConfigurationError(
            "storage.links = presigned needs s3:// storage. Set storage.links = keys or public."
        )


def _open_folder(path: Path, settings: StorageSettings) -> ObjectStore:
    try:
        folder = ObjectFolder(path.expanduser().resolve(), fsync=settings.fsync)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "whose home?"
        raise ConfigurationError(
            f"storage folder {path} cannot be used ({reason}). Correct DARKROOM_STORAGE__URL."
        ) from None
    return ObjectStore(
        LocalStore(folder.root), FolderWriter(folder, fsync=settings.fsync), settings, folder.staging
    )


def _open_s3(bucket: str, prefix: str, settings: StorageSettings) -> S3Store:
    config: S3Config = {
        "region": settings.region,
        "virtual_hosted_style_request": settings.virtual_hosted,
        "checksum_algorithm": "SHA256",
        "disable_bulk_delete": True,  # not every S3 has it
    }
    if endpoint := _endpoint(bucket, settings):
        config["endpoint"] = endpoint
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        credential_provider=_credentials(settings),
        client_options={"allow_http": settings.allow_http, "connect_timeout": "5s", "timeout": "120s"},
        # The stage's own backoff does the rest; here only what passes in the blink of an eye.
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
    )


def _endpoint(bucket: str, settings: StorageSettings) -> str | None:
    """Give the endpoint as obstore takes it: with the bucket's name in it, if that is how requests go."""
    if settings.endpoint is None:
        return None
    parts = urlsplit(settings.endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ConfigurationError(
            "setting storage.endpoint is not a plain http(s) URL. Correct DARKROOM_STORAGE__ENDPOINT."
        )
    if parts.scheme == "http" and not settings.allow_http:
        raise ConfigurationError("storage.endpoint is http. Use https or set storage.allow_http.")
    if not settings.virtual_hosted or parts.hostname.startswith(f"{bucket.lower()}."):
        return settings.endpoint
    if re.fullmatch(r"[0-9.]+|.*:.*", parts.hostname):
        raise ConfigurationError("storage.virtual_hosted needs a name in storage.endpoint, not an address.")
    return parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()


def _credentials(settings: StorageSettings) -> _Credentials | None:
    key_id, secret = settings.access_key_id, settings.secret_access_key
    if key_id is None and secret is None and settings.session_token is None:
        return None
    if key_id is None or secret is None:
        raise ConfigurationError(
            "storage.access_key_id and storage.secret_access_key go together, with storage.session_token if they "
            "are temporary. Set both or none."
        )
    credentials = _Credentials(key_id, secret, settings.session_token)
    credentials()  # says now what is missing
    return credentials


@dataclass(frozen=True, slots=True)
class _Credentials:
    """Reads the credentials when obstore asks. Given as plain options, they would be mixed with AWS_SESSION_TOKEN."""

    key_id: SecretReference
    secret: SecretReference
    token: SecretReference | None

    def __call__(self) -> S3Credential:
        credential: S3Credential = {
            "access_key_id": self.key_id.read("storage.access_key_id").get_secret_value(),
            "secret_access_key": self.secret.read("storage.secret_access_key").get_secret_value(),
            "expires_at": datetime.now(UTC) + _CREDENTIALS_FOR,
        }
        if self.token is not None:
            credential["token"] = self.token.read("storage.session_token").get_secret_value()
            credential["expires_at"] = datetime.now(UTC) + _TEMPORARY_FOR
        return credential
