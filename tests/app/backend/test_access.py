"""The rights of callers, and names that do not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from backend_help import ANYONE, CALLS, DOCUMENTS, WRITES, Made, Make, ids, refused, run

from app.errors import Forbidden, NotHere
from app.types import Caller
from retrieval.errors import CollectionNotFound, InvalidInput


@pytest.mark.parametrize(
    "name", ["../x", "..", "/etc", "a/b", "", "docs@v1", "a\0b", "\ud800", "x" * 65, ".hidden", "%"]
)
def test_no_name_leaves_the_store(make: Make, name: str, tmp_path: Path) -> None:
    backend = make().backend
    before = sorted(tmp_path.rglob("*"))
    said = refused(InvalidInput, CALLS, backend, ANYONE, collection=name)
    assert all("collection name" in one for one in said)
    assert sorted(tmp_path.rglob("*")) == before


def test_only_who_may_write_writes(filled: Made, make: Make) -> None:
    reader = Caller("reader", write=False)
    sealed = make(read_only=True)  # another process would have the store; here nothing is opened
    for backend, caller in ((filled.backend, reader), (sealed.backend, ANYONE)):
        refused(Forbidden, WRITES, backend, caller, collection="docs")
    assert len(ids(run(filled.backend.search(reader, ["where"])))) == 3


def test_what_a_caller_may_not_use_looks_as_if_not_there(make: Make) -> None:
    backend = make().backend
    for name in ("docs", "mine", "secret"):
        run(backend.documents.upsert(ANYONE, DOCUMENTS, collection=name))
    limited = Caller("k", collections=("mine", "coming"))
    there, missing = (
        refused(CollectionNotFound, CALLS, backend, limited, collection=name)
        for name in ("secret", "nothing")
    )
    assert there == [said.replace("nothing", "secret") for said in missing]
    assert "'coming', 'mine'" in there[0]
    assert "docs" not in there[0]
    assert [one.name for one in run(backend.collections.list(limited))] == ["mine"]
    with pytest.raises(InvalidInput, match="names no collection"):
        run(backend.search(limited, ["x"]))
    run(backend.collections.create(limited, "coming"))
    only = Caller("k", collections=("mine",))
    assert backend.collections.default(only) == "mine"
    assert ids(run(backend.search(only, ["bees dance"])))[0] == "bee"
    with pytest.raises(CollectionNotFound, match="there is no collection 'gone'") as caught2:
        run(backend.search(Caller("k", collections=("gone",)), ["x"]))
    assert "secret" not in str(caught2.value)


def test_a_caller_with_a_tenant_is_that_tenant(make: Make) -> None:
    backend = make().backend
    a, b = Caller("a", tenant="a"), Caller("b", tenant="b")
    run(backend.documents.upsert(a, DOCUMENTS[:2]))  # makes a collection with tenants
    run(backend.documents.upsert(b, DOCUMENTS[1:]))
    assert run(backend.collections.get(a, "docs")).manifest.layout.tenants
    assert sorted(ids(run(backend.search(a, ["where"])))) == ["bee", "oak"]
    assert sorted(ids(run(backend.search(b, ["where"])))) == ["ant", "bee"]
    assert run(backend.collections.get(a, "docs")).passages == 2
    assert run(backend.collections.get(ANYONE, "docs")).passages == 4
    with pytest.raises(NotHere):
        run(backend.documents.get(a, "ant"))
    assert run(backend.documents.delete(a, ["ant", "bee"])) == ("bee",)
    assert run(backend.documents.get(b, "bee")).id == "bee"
    assert ids(run(backend.search(ANYONE, ["where"], tenant="a"))) == ["oak"]
    assert ids(run(backend.search(a, ["where"], tenant="a"))) == ["oak"]
    refused(Forbidden, ("search", "get", "upsert", "delete"), backend, a, tenant="b")
    refused(Forbidden, ("drop",), backend, a, collection="docs")
    with pytest.raises(InvalidInput, match="names none"):
        run(backend.search(ANYONE, ["where"]))
    run(backend.documents.upsert(ANYONE, DOCUMENTS, collection="open"))
    hidden = ("search", "get", "upsert", "delete", "look at")
    refused(CollectionNotFound, hidden, backend, a, collection="open")
    assert [one.name for one in run(backend.collections.list(a))] == ["docs"]
    assert run(backend.collections.create(a, "more")).manifest.layout.tenants
    with pytest.raises(InvalidInput, match="without tenants"):
        run(backend.documents.upsert(ANYONE, DOCUMENTS, collection="open", tenant="a"))
