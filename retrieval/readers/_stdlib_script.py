"""Collects the standard library's docstrings; `stdlib_docs.py` runs it in its own process.

Importing hundreds of modules has side effects (signal handlers, atexit hooks, warnings, output),
so it is done in its own interpreter, without site-packages. This file therefore imports
nothing but the standard library. It writes one JSON object a line, in the order of names:

    {"id": "shutil.copytree", "title": "shutil.copytree(src, dst, …)", "text": …,
     "module": "shutil", "kind": "function"}

An object that is reachable under several names is documented once, under the name a user types:
`os.path.join`, not `posixpath.join`; `asyncio.run`, not `asyncio.runners.run`; `open`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import types
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

# Not documentation (tests, demos, jokes, codecs), or the same functions under a second name.
SKIPPED = {
    "antigravity",
    "encodings",
    "ensurepip",
    "genericpath",
    "idlelib",
    "lib2to3",
    "nt",
    "nturl2path",
    "posix",
    "pydoc_data",
    "test",
    "tests",
    "this",
    "turtledemo",
    "xxlimited",
    "xxlimited_35",
    "xxsubtype",
    "ntpath" if os.path.__name__ == "posixpath" else "posixpath",
}
# `tkinter` is left out on every machine, so that the corpus does not depend on an optional part.
SKIPPED |= {"tkinter", "turtle"}
USERS_NAMES = {os.path.__name__: "os.path", "builtins": ""}
# The C half of `socket.socket`, under a name that nobody uses; its methods belong to the latter.
SKIPPED_NAMES = {"socket.SocketType"}
NO_DOCUMENTATION = ("An enumeration.", "Alias for field number")
PARAMETER_CHARACTERS = 60
NOT_PROSE = re.compile(r"->|^\s*[\w.]+\(|^\W*$")
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


@dataclass
class Entry:
    """One object, with the names it is reachable by: (rank, name, module), the best one first."""

    target: Any
    kind: str
    names: list[tuple[tuple[int, int, int, int, str], str, str]] = field(default_factory=list)
    parent: str = ""


def main() -> None:
    """Write the corpus to standard output; what modules print while imported goes nowhere."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        with out:
            for row in rows():
                out.write(json.dumps(row, ensure_ascii=True) + "\n")
    except BrokenPipeError:
        pass
    except KeyboardInterrupt:
        os._exit(130)
    # Exit hooks of what was imported (readline, multiprocessing, …) must not run.
    os._exit(0)


def rows() -> Iterator[dict[str, str]]:
    """The documents as plain rows, sorted by id; every id occurs once."""
    modules = import_all()
    entries = module_members(modules)
    classes = {
        name: (entry.target, module)
        for entry, name, module in chosen(entries.values())
        if entry.kind == "class"
    }
    add_class_members(entries, classes)
    summaries = {users_name(m.__name__): first_sentence(m.__doc__) for m in modules}
    summaries |= {name: first_sentence(own_doc(c)) for name, (c, _) in classes.items()}
    documents: dict[str, dict[str, str]] = {}
    for entry, name, module in chosen(entries.values()):
        doc = own_doc(entry.target)
        if doc:
            documents.setdefault(name, row(entry, name, module, doc, summaries))
    for module_object in modules:
        name = users_name(module_object.__name__) or "builtins"
        doc = clean(module_object.__doc__)
        if doc and name not in documents:
            documents[name] = {
                "id": name,
                "title": name,
                "text": f"{doc}\n\nModule {name}.",
                "module": name,
                "kind": "module",
            }
    for name in sorted(documents):
        if not ADDRESS.search(documents[name]["text"]):
            yield documents[name]


# --- modules --------------------------------------------------------------------------------


def import_all() -> list[types.ModuleType]:
    """Every public module that imports here and that Python itself does not call deprecated."""
    notices: list[str] = []
    modules: dict[str, types.ModuleType] = {}
    waiting = [name for name in sorted(sys.stdlib_module_names, reverse=True) if is_wanted(name)]
    while waiting:
        name = waiting.pop()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                module = importlib.import_module(name)
            except BaseException:  # noqa: BLE001  a module of another platform may raise anything
                continue
            finally:
                notices += [
                    str(w.message) for w in caught if issubclass(w.category, DeprecationWarning)
                ]
        modules[name] = module
        paths = getattr(module, "__path__", [])
        children = sorted(found.name for found in pkgutil.iter_modules(paths))
        waiting += [f"{name}.{child}" for child in reversed(children) if is_wanted(child)]
    deprecated = {name for name in modules if is_deprecated(name, notices)}
    return [
        modules[name]
        for name in sorted(modules)
        if not any(name == d or name.startswith(d + ".") for d in deprecated)
    ]


def is_wanted(name: str) -> bool:
    """Whether a module, by the last part of its name, belongs to the public documentation."""
    return not name.startswith("_") and name not in SKIPPED


def is_deprecated(name: str, notices: Iterable[str]) -> bool:
    """Whether importing gave notice that this module is to be removed."""
    pattern = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.]).*\bdeprecated\b", re.DOTALL)
    return any(pattern.search(notice) for notice in notices)


def users_name(module: str) -> str:
    """The name a user imports the module by; empty for builtins."""
    return USERS_NAMES.get(module, module)


def public_names(module: types.ModuleType) -> list[str]:
    """`__all__`, or the names that the module, not another public one, defines."""
    declared = getattr(module, "__all__", None)
    if declared is not None:
        return [name for name in declared if isinstance(name, str) and not name.startswith("_")]
    if module.__name__ == "builtins":
        return [name for name in vars(module) if not name.startswith("_")]
    found = []
    for name, value in vars(module).items():
        owner = getattr(value, "__module__", None)
        if not name.startswith("_") and (
            owner == module.__name__
            or (isinstance(owner, str) and owner.startswith(("_", module.__name__ + ".")))
        ):
            found.append(name)
    return found


# --- members --------------------------------------------------------------------------------


def module_members(modules: Iterable[types.ModuleType]) -> dict[int, Entry]:
    """Functions and classes of modules, by the identity of what is behind the name."""
    entries: dict[int, Entry] = {}
    for module in modules:
        for name in public_names(module):
            try:
                value = getattr(module, name)
            except Exception:  # noqa: BLE001  lazy module attributes may raise anything
                continue
            if isinstance(value, type):
                kind = "class"
            elif inspect.isroutine(value) or isinstance(value, functools._lru_cache_wrapper):
                kind = "function"
            else:
                continue
            add(entries, value, kind, users_name(module.__name__), name, module.__name__)
    return entries


def add_class_members(entries: dict[int, Entry], classes: dict[str, tuple[type, str]]) -> None:
    """Methods and properties a class defines itself or takes from a base that is not public."""
    public = {value for value, _ in classes.values()}
    for class_name in sorted(classes):
        own, module = classes[class_name]
        inherited: set[str] = set()
        for base in own.__mro__[1:]:
            if base in public:
                inherited.update(dir(base))
        seen: set[str] = set()
        for base in own.__mro__:
            if base is not own and base in public:
                continue
            for name, raw in vars(base).items():
                if name.startswith("_") or name in seen or (base is not own and name in inherited):
                    continue
                seen.add(name)
                kind = member_kind(raw)
                if kind:
                    depth = len(own.__mro__)
                    add(entries, raw, kind, class_name, name, module, depth)


def member_kind(raw: object) -> str:
    """`method`, `property`, or nothing for what has no documentation itself."""
    if isinstance(raw, (staticmethod, classmethod)) or inspect.isroutine(raw):
        return "method"
    if isinstance(raw, (property, functools.cached_property, types.GetSetDescriptorType)):
        return "property"
    return ""


def add(
    entries: dict[int, Entry],
    value: Any,
    kind: str,
    parent: str,
    name: str,
    module: str,
    depth: int = 0,
) -> None:
    """Note that `value` is reachable as `parent.name`; `depth` counts the classes above it."""
    target = getattr(value, "__func__", value)
    qualified = f"{parent}.{name}" if parent else name
    if qualified in SKIPPED_NAMES:
        return
    entry = entries.setdefault(id(target), Entry(value, kind))
    other_name = getattr(target, "__name__", name) != name
    rank = (int(other_name), qualified.count("."), depth, len(qualified), qualified)
    entry.names.append((rank, qualified, module))


def chosen(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str, str]]:
    """Each object with the name it goes by: its own, of the fewest dots, highest up, shortest."""
    for entry in entries:
        _, name, module = min(entry.names)
        entry.parent = name.rpartition(".")[0]
        yield entry, name, users_name(module) or "builtins"


def own_doc(value: Any) -> str:
    """The docstring written for this very object, a class's constructor included; may be empty."""
    if isinstance(value, type):
        doc = vars(value).get("__doc__")
        generated = hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__")
        if isinstance(doc, str) and generated and doc.startswith(f"{value.__name__}("):
            doc = None
        created = vars(value).get("__init__")
        if isinstance(created, types.FunctionType) and created.__doc__:
            doc = "\n\n".join(filter(None, [clean(doc), clean(created.__doc__)]))
    else:
        doc = getattr(getattr(value, "__func__", value), "__doc__", None)
    return clean(doc)


def clean(doc: object) -> str:
    """A docstring without its indentation; empty for what is generated or not text at all."""
    if not isinstance(doc, str) or doc.startswith(NO_DOCUMENTATION):
        return ""
    return inspect.cleandoc(doc).strip()


# --- text -----------------------------------------------------------------------------------


def row(
    entry: Entry, name: str, module: str, doc: str, summaries: dict[str, str]
) -> dict[str, str]:
    """The document of one object: its docstring, then its name in words and where it belongs."""
    short = name.rpartition(".")[2]
    words = in_words(short)
    parent = entry.parent or "builtins"
    within = "of class" if entry.kind in ("method", "property") else "in module"
    if within == "of class" and parent not in summaries:
        within = "of"
    summary = summaries.get(entry.parent, "")
    context = (
        f"{entry.kind.capitalize()} {short}"
        + (f" ({words})" if words != short.lower() else "")
        + f" {within} {parent}"
        + (f": {summary}" if summary else ".")
    )
    title = name if entry.kind == "property" else name + parameters(entry, PARAMETER_CHARACTERS)
    return {
        "id": name,
        "title": title,
        "text": f"{doc}\n\n{context}",
        "module": module,
        "kind": entry.kind,
    }


def parameters(entry: Entry, room: int) -> str:
    """The call's parameters in at most `room` characters; empty where Python does not know them."""
    value = entry.target
    try:
        signature = inspect.signature(getattr(value, "__func__", value))
    except Exception:  # noqa: BLE001  defaults are evaluated, and may name what is not there
        return ""
    items = list(signature.parameters.values())
    bound = isinstance(value, (classmethod, types.MethodType)) or (
        entry.kind == "method" and not isinstance(value, staticmethod)
    )
    if (
        bound
        and items
        and items[0].kind in (items[0].POSITIONAL_ONLY, items[0].POSITIONAL_OR_KEYWORD)
    ):
        items = items[1:]
    shown: list[str] = []
    starred = False
    for item in items:
        if item.kind is item.KEYWORD_ONLY and not starred:
            shown.append("*")
            starred = True
        star = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(item.kind.name, "")
        starred = starred or star == "*"
        shown.append(star + item.name + default_of(item))
    text = ", ".join(shown)
    while len(text) > room and shown:
        shown.pop()
        text = ", ".join([*shown, "…"])
    return f"({text})"


def default_of(item: inspect.Parameter) -> str:
    """`=None` and its like; an ellipsis for values whose text may change from run to run."""
    if item.default is item.empty:
        return ""
    plain = item.default is None or type(item.default) in (bool, int, float, str, bytes)
    text = repr(item.default) if plain else "…"
    return f"={text if len(text) <= 16 else '…'}"


def in_words(name: str) -> str:
    """`ThreadPoolExecutor` → `thread pool executor`, `read_text` → `read text`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(spaced.replace("_", " ").lower().split())


def first_sentence(doc: str | None) -> str:
    """What a docstring says first in prose, on one line; call forms and underlines are passed."""
    for paragraph in inspect.cleandoc(doc or "").split("\n\n"):
        lines = [line for line in paragraph.splitlines() if not NOT_PROSE.search(line)]
        line = " ".join(" ".join(lines).split())
        if " " in line:
            return re.split(r"(?<=[.!?])\s", line, maxsplit=1)[0][:200]
    return ""


if __name__ == "__main__":
    main()
