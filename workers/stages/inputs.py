"""Inputs kept in the object store are put back into the request just before its POST."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

from shared.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.storage import ObjectStore

REFERENCE: Final = "darkroom-input:"
_MEDIA_TYPES: Final = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "bmp": "image/bmp"}


class Inputs:
    """Re-inlines references as data URIs [vendor page: data:image/...;base64]."""

    def __init__(self, store: ObjectStore | None) -> None:
        self._store = store

    async def wire(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the request as the provider takes it. Raises StorageError if an input cannot be read."""
        urls = request.get("image_urls") or ()
        if not any(url.startswith(REFERENCE) for url in urls):
            return request
        return {**request, "image_urls": [await self._inline(url) for url in urls]}

    async def _inline(self, url: str) -> str:
        if not url.startswith(REFERENCE):
            return url
        if self._store is None:
            raise StorageError("the job's input is in the object store, but storage is off. Turn it on.")
        key = url.removeprefix(REFERENCE)
        content = await self._read(self._store, key)
        media_type = _MEDIA_TYPES[key.rsplit(".", 1)[-1]]
        return f"data:{media_type};base64,{b64encode(content).decode()}"

    async def _read(self, store: ObjectStore, key: str) -> bytes:
        """Read an input. Missing is only what a store that is there does not have: the store itself may come back."""
        try:
            return await store.read(key)
        except StorageError as error:
            if error.kind == "missing" and not await store.is_there():
                raise StorageError("the object store is gone. Check storage.url.", key=key) from None
            raise
