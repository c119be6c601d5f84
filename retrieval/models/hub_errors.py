"""The hub client's errors as this library's own, with what the user can do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from retrieval.errors import DiskFull, ModelFault, ModelNotFound, RetrievalError
from retrieval.types import ModelKind


@contextlib.contextmanager
def translated(
    repo: str, revision: str | None, kind: ModelKind, endpoint: str | None
) -> Iterator[None]:
    """Errors of huggingface_hub and of the disk while a repository is fetched."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = endpoint or constants.ENDPOINT
    # The base classes of the hub's errors hold its HTTP library's own, which differs by version.
    transport: tuple[type[Exception], ...] = (
        OSError,
        *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
    )
    try:
        yield
    except RetrievalError:
        raise
    except GatedRepoError as error:
        raise ModelNotFound(
            f"the model {repo} on {hub} is gated, and no accepted access was found",
            fix=f"Accept its terms at {hub}/{repo}, then log in with `hf auth login`.",
        ) from error
    except RepositoryNotFoundError as error:
        raise not_found(repo, kind, f"{hub} has no such model, or it is private") from error
    except HFValidationError as error:
        raise not_found(repo, kind, "it is not a folder, and no hub id has this form") from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(
            f"the model {repo} on {hub} has no revision {revision!r}",
            fix="Give a branch, a tag or a full commit hash of that repository.",
        ) from error
    except LocalEntryNotFoundError as error:
        reason = "offline mode is on" if constants.HF_HUB_OFFLINE else f"{hub} does not answer"
        raise not_found(repo, kind, f"it is not on this machine and {reason}") from error
    except transport as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DiskFull(
                f"the disk is full while fetching the model {repo}",
                fix="Free some space and run again; what was fetched so far is kept.",
            ) from error
        if isinstance(error, PermissionError):
            raise ModelFault(
                f"the model {repo} cannot be stored: no permission to write {error.filename}",
                fix="Set HF_HOME to a folder that you may write to.",
            ) from error
        raise not_found(
            repo, kind, f"it is not on this machine, and fetching it from {hub} failed ({error})"
        ) from error


def not_found(name: str, kind: ModelKind, reason: str, fix: str = "") -> ModelNotFound:
    """No such model, with what the user may have meant; `fix`: what else would help."""
    from retrieval.models.registry import find, near_names

    # A known name is not a typing error: then only the network or the cache is to blame.
    near = [] if find(name, kind) is not None else near_names(name, kind)
    offer = f"Did you mean {' or '.join(near)}? " if near else ""
    return ModelNotFound(
        f"the {kind} {name!r} cannot be loaded: {reason}",
        fix=f"{offer}{fix + ' ' if fix else ''}Give the folder that holds its files, connect to a "
        "model hub, or use 'starter', which comes from a package index. `retrieval models` lists "
        "the known names.",
    )
