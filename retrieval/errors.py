"""Every error of the library, as a tree.

    RetrievalError                 base; exit code 1
    ├── UserError                  the caller can correct it; exit code 2
    │   ├── InvalidInput           an argument's value (also a ValueError)
    │   │   ├── InvalidQuery       blank or not text
    │   │   ├── InvalidFilter      a `where` that cannot be understood
    │   │   ├── LimitExceeded      more than the engine gives in one answer
    │   │   └── InvalidBatch       passages or vectors that must not be written
    │   ├── MissingExtra           an optional package is not installed
    │   ├── ModelNotFound          no such model here or on the hub
    │   ├── ModelSettingUnknown    pooling, score head … that nothing declares
    │   ├── CorpusError            a source that cannot be read
    │   ├── CollectionNotFound     no such collection in the store
    │   ├── CollectionReplaced     what was opened is not there any more
    │   ├── CollectionExists       it would be overwritten
    │   ├── ManifestMismatch       built with other models or settings
    │   ├── StoreLocked            another process has the store open
    │   └── PortInUse              another process listens there
    └── Fault                      the machine or a part failed; exit code 1
        ├── ModelFault             weights that do not load or a device that failed
        ├── ManifestCorrupt        the manifest is there but cannot be read
        ├── StoreFault             the engine refused, panicked, or files are damaged
        ├── StoreDenied            no permission
        └── DiskFull               not enough space to go on safely

Each message says what was given and what was expected (`problem`) and what to do next (`fix`).
"""

from __future__ import annotations


class RetrievalError(Exception):
    """Base of all errors raised on purpose by this library.

    Args:
        problem: what was given and what was expected, without a full stop.
        fix: what to do next, as a sentence.

    Attributes:
        problem: as given.
        fix: as given.
        exit_code: exit code of the command line: 2 if the caller can correct the error, else 1.

    Example:
        >>> import retrieval
        >>> try:
        ...     retrieval.open("no-such-collection")
        ... except retrieval.RetrievalError as error:
        ...     print(error.exit_code, error.problem)
        2 there is no collection 'no-such-collection' in ...
    """

    exit_code = 1

    def __init__(self, problem: str, *, fix: str) -> None:
        self.problem = problem.rstrip(". ")
        self.fix = fix
        super().__init__(f"{self.problem}. {fix}")


class UserError(RetrievalError):
    """The caller can correct it."""

    exit_code = 2


class InvalidInput(UserError, ValueError):
    """An argument has a value that cannot be used."""


class InvalidQuery(InvalidInput):
    """A query is blank or not text."""


class InvalidFilter(InvalidInput):
    """A `where` cannot be understood."""


class LimitExceeded(InvalidInput):
    """More results were asked for than the engine gives in one answer.

    Attributes:
        most: how many it gives.
    """

    def __init__(self, problem: str, *, fix: str, most: int) -> None:
        super().__init__(problem, fix=fix)
        self.most = most


class InvalidBatch(InvalidInput):
    """Passages or vectors must not be written: wrong shape, not finite, not JSON."""


class MissingExtra(UserError, ImportError):
    """The call needs an optional package.

    Args:
        package: the package that could not be imported.
        extra: the extra of this distribution that brings it.
        purpose: what it is needed for.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            fix=f"Install it with: pip install 'two-stage-retrieval[{extra}]'",
        )


class ModelNotFound(UserError):
    """No such model in the registry, on disk, in the cache or on the hub."""


class ModelSettingUnknown(UserError):
    """A setting that decides correctness is declared nowhere; it is never guessed."""


class CorpusError(UserError):
    """A source cannot be read."""


class CollectionNotFound(UserError):
    """No such collection in the store."""


class CollectionReplaced(UserError):
    """The collection that was opened was deleted since, or deleted and made anew; what has its
    name now was neither read nor written to. Open it again."""


class CollectionExists(UserError):
    """A collection of that name exists already."""


class ManifestMismatch(UserError):
    """A collection was built with other models or settings than requested."""


class StoreLocked(UserError):
    """Another process has the store open."""


class PortInUse(UserError):
    """Another process listens on the port."""


class Fault(RetrievalError):
    """The machine or a part of the system failed."""


class ModelFault(Fault):
    """Weights do not load, or a device failed while running."""


class ManifestCorrupt(Fault):
    """A manifest exists but cannot be read."""


class StoreFault(Fault):
    """The engine refused an operation, panicked, or its files are damaged.

    Args:
        problem, fix: see `RetrievalError`.
        retry_after_s: seconds after which the same call may succeed; None where waiting changes
            nothing.
    """

    def __init__(self, problem: str, *, fix: str, retry_after_s: float | None = None) -> None:
        super().__init__(problem, fix=fix)
        self.retry_after_s = retry_after_s


class StoreDenied(Fault):
    """The operating system denies access to the store."""


class DiskFull(Fault):
    """There is not enough free space to go on without risking what is stored."""


def first_line(error: BaseException) -> str:
    """The message of another package's error, short enough to be quoted in one of ours."""
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
