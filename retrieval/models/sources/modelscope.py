"""ModelScope as the hub: its file API, for those who cannot reach the first one.

`RETRIEVAL_HUB=modelscope` chooses it, for every model that would come from a hub. Files are listed
by `/api/v1/models/OWNER/NAME/repo/files` with the sha256 of each, and fetched by
`/api/v1/models/OWNER/NAME/repo`, which may send one on to another host. What was fetched of a file
is kept, and the next run goes on behind it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from retrieval.errors import DiskFull, ModelFault, ModelNotFound
from retrieval.models.sources.weights import VARIABLE, weights_dir

if TYPE_CHECKING:
    import httpx  # which takes its time

CHOICE = "RETRIEVAL_HUB"
ENDPOINT = "MODELSCOPE_ENDPOINT"
_DEFAULT = "https://www.modelscope.cn"
_BRANCH = "master"
_TRIES = 3  # of a file, each going on where the last one ended


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: its path there, bytes, and sha256 in hexadecimal."""

    path: str
    size: int
    sha256: str


def is_chosen() -> bool:
    """Whether the environment names ModelScope as the hub.

    Raises:
        ModelNotFound: it names a hub that is not known.
    """
    named = os.environ.get(CHOICE, "").strip().casefold()
    if named in ("", "huggingface", "modelscope"):
        return named == "modelscope"
    raise ModelNotFound(
        f"{CHOICE} is {os.environ[CHOICE]!r}, expected huggingface or modelscope",
        fix=f"Unset {CHOICE}, or correct it. A mirror of the first hub is named by HF_ENDPOINT.",
    )


def address() -> str:
    """ModelScope's address: `$MODELSCOPE_ENDPOINT`, else its own."""
    named = os.environ.get(ENDPOINT, "").strip().rstrip("/")
    if not named:
        return _DEFAULT
    return named if "://" in named else f"https://{named}"


def folder_of(repo: str, revision: str | None = None) -> Path:
    """Where a repository's files lie once they are fetched."""
    return weights_dir() / "modelscope" / repo.replace("/", "--") / (revision or _BRANCH)


def list_files(
    repo: str, revision: str | None = None, *, timeout_s: float = 20.0
) -> list[RemoteFile]:
    """Every file of a repository.

    Raises:
        ModelNotFound: it has no such repository or revision, or does not answer.
    """
    query = {"Revision": revision or _BRANCH, "Recursive": "true"}
    with _client() as client, _translated(repo):
        reply = client.get(f"{_base(repo)}/files", params=query, timeout=timeout_s)
        reply.raise_for_status()
        answer = reply.json()
        if not isinstance(answer, dict) or not answer.get("Success", answer.get("Code") == 200):
            raise ValueError(str(answer)[:200])
        return [
            RemoteFile(str(one["Path"]), int(one["Size"]), str(one["Sha256"]).lower())
            for one in answer["Data"]["Files"]
            if one.get("Type") != "tree"
        ]


def fetch(repo: str, files: list[RemoteFile], revision: str | None = None) -> Path:
    """Fetch files into the repository's folder; each has its name there only once it is whole.

    Raises:
        ModelNotFound: ModelScope does not answer.
        ModelFault: a file is not what the listing says, or cannot be written.
        DiskFull: the disk has no room.
    """
    folder = folder_of(repo, revision)
    with _client() as client, _translated(repo):
        for file in files:
            target = folder / file.path
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"it names a file outside of its folder, {file.path!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with _part(target) as part:
                if not target.is_file() or target.stat().st_size != file.size:
                    _fetch_one(client, repo, revision, file, part)
                    Path(part.name).replace(target)
    return folder


@contextlib.contextmanager
def _part(target: Path) -> Iterator[IO[bytes]]:
    """The file that collects what was fetched, one process at a time."""
    path = target.with_name(f".{target.name}.part")
    with path.open("ab") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        yield part
    with contextlib.suppress(FileNotFoundError):
        if target.is_file():
            path.unlink()


def _fetch_one(
    client: httpx.Client, repo: str, revision: str | None, file: RemoteFile, part: IO[bytes]
) -> None:
    import httpx

    for tries_left in reversed(range(_TRIES)):
        try:
            _go_on(client, repo, revision, file, part)
        except httpx.TransportError:
            if not tries_left:
                raise
            continue
        break
    part.flush()
    with Path(part.name).open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != file.sha256:
        part.truncate(0)
        raise ModelFault(
            f"the file {file.path} of {repo} from {address()} has the sha256 {actual}, and its "
            f"listing says {file.sha256}",
            fix="Run it again; if it stays so, something between here and there changes files.",
        )


def _go_on(
    client: httpx.Client, repo: str, revision: str | None, file: RemoteFile, part: IO[bytes]
) -> None:
    """Fetch what is missing of a file, and append it."""
    import httpx

    have = part.seek(0, os.SEEK_END)
    if have > file.size:
        part.truncate(0)
        have = 0
    if have == file.size:
        return
    query = {"Revision": revision or _BRANCH, "FilePath": file.path}
    headers = {"Accept-Encoding": "identity"}  # a part of a compressed answer cannot be continued
    if have:
        headers["Range"] = f"bytes={have}-"
    with client.stream("GET", _base(repo), params=query, headers=headers) as reply:
        reply.raise_for_status()
        if have and reply.status_code != httpx.codes.PARTIAL_CONTENT:
            part.truncate(0)  # it sends all of it again
        for block in reply.iter_raw():
            part.write(block)
    part.flush()


def _client() -> httpx.Client:
    import httpx

    # It refuses clients that do not say who they are; files may lie on another host.
    agent = {"User-Agent": "two-stage-retrieval"}
    return httpx.Client(timeout=httpx.Timeout(20, connect=10), headers=agent, follow_redirects=True)


def _base(repo: str) -> str:
    return f"{address()}/api/v1/models/{repo}/repo"


@contextlib.contextmanager
def _translated(repo: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        what = "has no such model or revision" if code == 404 else f"answered with status {code}"
        raise _not_found(repo, f"{address()} {what}") from error
    except httpx.HTTPError as error:
        raise _not_found(repo, f"{address()} does not answer ({error})") from error
    except (ValueError, LookupError, TypeError) as error:
        raise _not_found(repo, f"{address()} gave no list of files ({error})") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk is full while fetching the model {repo}",
                fix="Free some space and run again; what was fetched so far is kept.",
            ) from error
        raise ModelFault(
            f"the model {repo} cannot be stored in {weights_dir()} ({error})",
            fix=f"Set {VARIABLE} to a folder that you may write to.",
        ) from error


def _not_found(repo: str, reason: str) -> ModelNotFound:
    return ModelNotFound(
        f"the model {repo} cannot be fetched from ModelScope: {reason}",
        fix=f"Check the name and the network, or unset {CHOICE} to ask the first hub. Names of "
        "owners can differ there.",
    )


def answers(repo: str, timeout_s: float) -> bool:
    """Whether ModelScope lists this repository; to be asked in a thread, with a deadline."""
    try:
        return bool(list_files(repo, timeout_s=timeout_s))
    except ModelNotFound:
        return False
