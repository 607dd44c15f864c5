"""The Hugging Face hub: what a repository has, who may read it, and what its cache holds already.

Everything about the hub that its own client knows (where it is, the token, the cache, the API) is
asked of `huggingface_hub`. The bytes are not: its download compares sizes but no checksums.
Source: https://huggingface.co/docs/hub/api.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx2

from dure.errors import DureError, ResourceError, UsageError
from dure.model.store.choosing import RemoteFile
from dure.model.store.download import (
    RETRIED,
    DroppedError,
    Patience,
    Source,
    in_a_row,
    lost,
    retry_after,
    wait_and_report,
)
from dure.model.store.names import HubName
from dure.model.store.watching import Watcher

__all__ = ["Hub", "HubSilentError", "Listing"]

T = TypeVar("T")
TOKENS = "https://huggingface.co/settings/tokens"


class HubSilentError(ResourceError):
    """The hub gives no answer, or none that means anything."""


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit."""

    name: HubName
    commit: str
    files: tuple[RemoteFile, ...]


class Hub:
    """The hub at an endpoint, with a token; what is not given is as `huggingface_hub` has it:
    HF_ENDPOINT, HF_TOKEN or the stored login (False for none), and the cache below HF_HOME."""

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | Literal[False] | None = None,
        cache: Path | None = None,
    ) -> None:
        from huggingface_hub import HfApi, constants, get_token

        self.endpoint = str(endpoint or constants.ENDPOINT).rstrip("/")
        self.cache = cache or Path(constants.HF_HUB_CACHE)
        self._offline = bool(constants.HF_HUB_OFFLINE)
        self._token = get_token() if token is None else token
        self._api: Any = HfApi(endpoint=self.endpoint, token=self._token or False)

    def listing(self, name: HubName, watch: Watcher, patience: Patience) -> Listing:
        """List the files of a repository, pinned to a commit.

        Raises UsageError if it is not there, ResourceError if it may not be read or the line
        fails.
        """
        if self._offline:
            raise ResourceError(f"{name}: HF_HUB_OFFLINE forbids to ask the hub", "unset it")
        info = self._patiently(
            lambda: self._api.model_info(
                name.repo,
                revision=name.revision,
                files_metadata=True,
                timeout=patience.timeout_s,
            ),
            name,
            watch,
            patience,
        )
        files = tuple(
            RemoteFile(sibling.rfilename, sibling.size, sibling.lfs.sha256 if sibling.lfs else None)
            for sibling in info.siblings or ()
        )
        return Listing(name, str(info.sha), files)

    def check_access(self, name: HubName, watch: Watcher, patience: Patience) -> None:
        """Check that the files of a repository may be downloaded.

        Raises UsageError, or ResourceError with what is missing; HubSilentError if nothing is known.
        """
        if self._offline:
            raise HubSilentError(f"{name}: HF_HUB_OFFLINE forbids to ask the hub", "unset it")
        self._patiently(lambda: self._api.auth_check(name.repo), name, watch, patience)

    def source(self, listing: Listing, file: RemoteFile) -> Source:
        """Return where a file of a listing is downloaded from."""
        from huggingface_hub import hf_hub_url

        return Source(
            url=hf_hub_url(
                listing.name.repo, file.path, revision=listing.commit, endpoint=self.endpoint
            ),
            headers={"authorization": f"Bearer {self._token}"} if self._token else {},
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            refusal=lambda response: self._refusal(listing.name, response),
        )

    def cached(self, repo: str, file: RemoteFile) -> Path | None:
        """Find a file's bytes in the hub's own cache on this machine, by its checksum."""
        from huggingface_hub.file_download import repo_folder_name

        if file.sha256 is None:
            return None
        folder = self.cache / repo_folder_name(repo_id=repo, repo_type="model")
        blob = folder / "blobs" / file.sha256
        try:
            whole = blob.stat().st_size == file.size_bytes
        except OSError:
            return None
        return blob if whole else None

    def _patiently(
        self, ask: Callable[[], T], name: HubName, watch: Watcher, patience: Patience
    ) -> T:
        """Ask the API; bad connections and overload are borne as in a download."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        failures = 0
        while True:
            failures += 1
            try:
                return ask()
            except HFValidationError as error:
                raise UsageError(f"{name}: {str(error).splitlines()[0]}") from error
            except HfHubHTTPError as error:
                if error.response.status_code not in RETRIED:
                    raise self._refusal(name, error.response) from error
                status = error.response.status_code
                dropped = DroppedError(f"the hub answers {status}", retry_after(error.response))
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise UsageError(
                    f"HF_ENDPOINT {self.endpoint} is no address",
                    "write it as https://huggingface.co",
                ) from error
            except httpx2.TransportError as error:
                dropped = lost(error)
            except ValueError as error:
                raise HubSilentError(
                    f"{self.endpoint} answers what no hub does", "check HF_ENDPOINT"
                ) from error
            if patience.is_over(failures, dropped):
                raise HubSilentError(
                    f"{name}: {dropped}, {in_a_row(failures)}", "check the network, try again later"
                ) from dropped
            wait_and_report(dropped, failures, patience, watch)

    def _refusal(self, name: HubName, response: httpx2.Response) -> DureError:
        """Return the error of an answer that no patience changes, with its cure."""
        page, status = f"{self.endpoint}/{name.repo}", response.status_code
        code = response.headers.get("x-error-code", "")
        said = response.headers.get("x-error-message", "")
        if code == "GatedRepo" or (status == 403 and "gated" in said.lower()):
            return ResourceError(f"{name} is gated", self._accept(page))
        if status == 401 and "invalid credentials" in said.lower():
            return ResourceError(
                "the hub does not accept the token",
                f"set HF_TOKEN to a valid one ({TOKENS}), or unset it",
            )
        if code == "RevisionNotFound":
            return UsageError(
                f"{name}: the repository has no revision {name.revision}", f"see {page}"
            )
        if code == "EntryNotFound":
            return UsageError(f"{name}: the file is not there any more", "try again")
        if status in (401, 403, 404):
            return UsageError(f"{name} is not on {self._host()}, or is private", self._private())
        return ResourceError(f"{name}: the hub answers {status}{f' ({said})' if said else ''}")

    def _accept(self, page: str) -> str:
        if self._token:
            return f"accept its terms at {page} with the account of your HF_TOKEN"
        return f"accept its terms at {page}, then set HF_TOKEN to a token of yours ({TOKENS})"

    def _private(self) -> str:
        if self._token:
            return "check the name, and whether your HF_TOKEN may read it"
        return f"check the name; for a private one set HF_TOKEN ({TOKENS})"

    def _host(self) -> str:
        return urlsplit(self.endpoint).hostname or self.endpoint
