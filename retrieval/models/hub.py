"""All contact with a model hub and its cache: through huggingface_hub, whose errors end here.

Where the environment chooses ModelScope, `sources/modelscope.py` answers in its place.
"""

from __future__ import annotations

import contextlib
import fnmatch
import queue
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from retrieval.errors import ModelNotFound, RetrievalError
from retrieval.models.hub_errors import not_found, translated
from retrieval.models.model_folder import read_folder
from retrieval.models.score_modules import is_score_file, score_files
from retrieval.models.sources import modelscope
from retrieval.models.weight_files import TOKENIZER_FILES, has_tokenizer, weight_files
from retrieval.types import ModelKind

# Read first, so that a model that cannot be run is refused before gigabytes are fetched.
_SETTINGS = (
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "tokenizer_config.json",
    "README.md",
    "[0-9]_*/config.json",
    "[0-9]_*/sentence_*_config.json",
    "[0-9]_*/tokenizer_config.json",
)
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?", re.ASCII)
_LOOKUP_SECONDS = 20.0  # the hub's own client waits without end where packets are dropped
_TOKENIZER = (*TOKENIZER_FILES, "merges.txt", "special_tokens_map.json", "added_tokens.json")
_BESIDE_WEIGHTS = ("sparse_linear.pt", "colbert_linear.pt")  # bge-m3's two further outputs


def is_hub_id(name: str) -> bool:
    """Whether a name has a hub id's form, `name` or `owner/name`."""
    return len(name) <= 96 and _HUB_ID.fullmatch(name) is not None


def cached_settings(
    repo: str, *, revision: str | None = None, cache_dir: Path | None = None
) -> Path | None:
    """The cached snapshot of a repository, complete or not, or None. Asks no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if modelscope.is_chosen():
        fetched = modelscope.folder_of(repo, revision)
        if (fetched / "config.json").is_file():
            return fetched
    try:
        return Path(
            snapshot_download(repo, revision=revision, cache_dir=cache_dir, local_files_only=True)
        )
    except LocalEntryNotFoundError as error:
        # An incomplete snapshot may still hold all that is needed: many repositories carry
        # the same weights in several formats.
        partial = getattr(error, "snapshot_path", None)
        return None if partial is None else Path(partial)
    except (OSError, ValueError):
        return None


def is_complete(folder: Path | None) -> bool:
    """Whether a snapshot holds configuration, tokeniser and every weight file."""
    if folder is None:
        return False
    try:
        transformer = read_folder(folder).transformer
        weight_files(transformer)
        score_files(folder)
    except (RetrievalError, OSError):
        return False
    return has_tokenizer(transformer)


def fetch_settings(
    repo: str,
    kind: ModelKind,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
) -> Path:
    """Download the configuration files (some kilobytes) and return the snapshot folder.

    Raises:
        ModelNotFound: no such repository or revision, no access, or no hub answers.
    """
    from huggingface_hub import HfApi, snapshot_download

    if _asks_modelscope(repo, kind, endpoint):
        files = modelscope.list_files(repo, revision)
        small = [f for f in files if any(fnmatch.fnmatch(f.path, one) for one in _SETTINGS)]
        return modelscope.fetch(repo, small, revision)
    with translated(repo, revision, kind, endpoint):
        api = HfApi(endpoint=endpoint)
        _within(_LOOKUP_SECONDS, lambda: api.repo_info(repo, revision=revision, timeout=10))
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                cache_dir=cache_dir,
                endpoint=endpoint,
                allow_patterns=list(_SETTINGS),
            )
        )


def fetch_weights(
    repo: str,
    kind: ModelKind,
    snapshot: Path,
    transformer: Path,
    *,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
) -> None:
    """Download the tokeniser and one format of the weights into the snapshot of the settings.

    Raises:
        ModelNotFound: the repository has no PyTorch weights, or no hub answers.
        DiskFull: the disk has no room for them.
    """
    from huggingface_hub import HfApi, snapshot_download

    inner = transformer.relative_to(snapshot).as_posix()
    prefix = "" if inner == "." else f"{inner}/"
    commit = snapshot.name  # of the settings: weights of a later commit must not join them
    if _asks_modelscope(repo, kind, endpoint):
        listed = {file.path: file for file in modelscope.list_files(repo, commit)}
        names = _wanted(repo, list(listed), prefix)
        modelscope.fetch(repo, [listed[name] for name in names], commit)
        return
    with translated(repo, None, kind, endpoint):
        files = HfApi(endpoint=endpoint).list_repo_files(repo, revision=commit)
        wanted = _wanted(repo, files, prefix)
        snapshot_download(
            repo,
            revision=commit,
            cache_dir=cache_dir,
            endpoint=endpoint,
            allow_patterns=wanted,
        )


def fetch_files(
    repo: str,
    kind: ModelKind,
    snapshot: Path,
    names: Sequence[str],
    *,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
) -> None:
    """Download single files into a snapshot that lacks them, from the snapshot's own commit.

    Args:
        snapshot: a folder of the hub's cache, `…/models--owner--name/snapshots/commit`.
        cache_dir: the hub's cache; None for the one that holds the snapshot.

    Raises:
        ModelNotFound: no hub answers, or it has no such commit.
        DiskFull: the disk has no room for them.
    """
    from huggingface_hub import snapshot_download

    if _asks_modelscope(repo, kind, endpoint):
        listed = {file.path: file for file in modelscope.list_files(repo, snapshot.name)}
        modelscope.fetch(repo, [listed[name] for name in names if name in listed], snapshot.name)
        return
    with translated(repo, snapshot.name, kind, endpoint):
        snapshot_download(
            repo,
            revision=snapshot.name,
            cache_dir=snapshot.parents[2] if cache_dir is None else cache_dir,
            endpoint=endpoint,
            allow_patterns=list(names),
        )


def is_offline() -> bool:
    """Whether the user has forbidden to ask hubs (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def answers(repo: str, timeout_s: float, endpoint: str | None = None) -> bool:
    """Whether the hub serves this repository within `timeout_s` seconds; never waits longer.

    One HEAD request for config.json, in a daemon thread, because looking a host's name up can
    stall far beyond any timeout that a request can be given.
    """
    import huggingface_hub

    if is_offline() or timeout_s <= 0:
        return False
    if endpoint is None and modelscope.is_chosen():
        found: list[bool] = []
        with contextlib.suppress(TimeoutError):
            _within(timeout_s, lambda: found.append(modelscope.answers(repo, timeout_s)))
        return found == [True]
    url = huggingface_hub.hf_hub_url(repo, "config.json", endpoint=endpoint)

    def ask() -> None:
        found = huggingface_hub.get_hf_file_metadata(url, timeout=timeout_s, endpoint=endpoint)
        if found.etag is None or found.commit_hash is None:
            raise ConnectionError("a server answered that is not a model hub, such as a login page")

    try:
        _within(timeout_s, ask)
    except Exception:  # noqa: BLE001 - whatever went wrong, the hub did not answer
        return False
    return True


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Run `call` in a daemon thread; raise its error here, or TimeoutError past the deadline."""
    replies: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised again by the waiting thread
            replies.put(error)
        else:
            replies.put(None)

    threading.Thread(target=work, name="model-hub-request", daemon=True).start()
    try:
        error = replies.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error


def _asks_modelscope(repo: str, kind: ModelKind, endpoint: str | None) -> bool:
    """Whether ModelScope is to be asked now."""
    from huggingface_hub import constants

    if endpoint is not None or not modelscope.is_chosen():
        return False
    if constants.HF_HUB_OFFLINE:
        raise not_found(repo, kind, "it is not on this machine and offline mode is on")
    return True


def _wanted(repo: str, files: Sequence[str], prefix: str) -> list[str]:
    """Names of the files to fetch beside the settings: one format of the weights, the tokeniser."""
    beside = (*_TOKENIZER, *_BESIDE_WEIGHTS)
    names = [prefix + name for name in beside if prefix + name in files]
    return [*_one_format(repo, files, prefix), *names, *filter(is_score_file, files)]


def _one_format(repo: str, files: Sequence[str], prefix: str) -> list[str]:
    """Names of the weight files to fetch: never two formats of the same weights."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if prefix + name in files:
            return [prefix + name]
        index = f"{prefix}{name}.index.json"
        if index in files:
            stem, _, suffix = name.rpartition(".")
            shards = (f for f in files if f.startswith(f"{prefix}{stem}-") and f.endswith(suffix))
            return [index, *shards]
    raise ModelNotFound(
        f"the repository {repo} has no PyTorch weights (model.safetensors or pytorch_model.bin)",
        fix="Choose a repository with PyTorch weights; `retrieval models` lists some.",
    )


def address() -> str:
    """The hub that is asked where none is named: `HF_ENDPOINT`, or the first one."""
    from huggingface_hub import constants

    if modelscope.is_chosen():
        return modelscope.address()
    return constants.ENDPOINT
