"""A store that does not know which versions its names mean is mended by the doctor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from maintenance_help import fill, make_manifest

from retrieval.cli.main import run
from retrieval.errors import CollectionNotFound, ManifestCorrupt
from retrieval.index.embedded.aliases import ALIASES, EARLIER_ALIASES
from retrieval.index.embedded.folder import create_folder
from retrieval.index.embedded.mending import find_faults, mend
from retrieval.index.manifest import prepare_manifest
from retrieval.index.store import Store
from retrieval.maintenance.doctor import examine


def make(root: Path, name: str) -> None:
    """A version without an engine's files: what is asked is where it lies."""
    made = prepare_manifest(name, make_manifest(name.split("@")[0]))
    create_folder(root, name, made, lambda path: path.mkdir())[1].release()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """docs@v1 to docs@v3, of which the second is current, and a collection of one version."""
    place = Store(tmp_path / "store")
    for name in ("docs", "docs@v2", "docs@v3", "other"):
        make(Path(place.location), name)
    place.switch("docs", "docs@v2")
    return place


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def as_folder(root: Path) -> None:
    (root / ALIASES).unlink()
    (root / ALIASES / "with").mkdir(parents=True)
    (root / ALIASES / "with" / "data").write_text("kept")


def with_text(text: str | bytes, name: str = ALIASES) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / ALIASES).unlink()
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return damage


DAMAGES = {
    "a folder": as_folder,
    "empty": with_text(""),
    "not JSON": with_text("{"),
    "not UTF-8": with_text(b"\xff\xfe"),
    "a list": with_text('["docs"]'),
    "a number": with_text('{"docs": 2}'),
    "another's": with_text('{"docs": "other@v2"}'),
    "outside": with_text('{"docs": "../docs@v2"}'),
    "deep": with_text("[" * 100_000),
    "of before": with_text("{", EARLIER_ALIASES),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_aliases_that_cannot_be_used_are_made_anew(store: Store, damage: str) -> None:
    root = Path(store.location)
    DAMAGES[damage](root)
    before = everything(root)
    calls: list[Callable[[], object]] = [
        store.names, lambda: store.open("docs"), lambda: store.current("docs"),
        lambda: store.switch("docs", "docs@v2"), lambda: examine("docs", store=store),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ManifestCorrupt, match=r"retrieval doctor COLLECTION --repair"):
            call()
    (fault, unknown) = find_faults(root)
    assert "cannot be used" in fault.text
    assert unknown.collection == "docs"
    assert everything(root) - {".aliases.lock"} == before - {".aliases.lock"}

    said = mend(root)
    assert said[1].mended == "it means the newest that is whole, docs@v3"
    assert json.loads((root / ALIASES).read_text()) == {"docs": "docs@v3"}
    assert store.names() == ["docs", "other"]
    (kept,) = root.glob("@damaged-*")
    assert kept.name in said[0].mended
    if damage == "a folder":
        assert (kept / "with" / "data").read_text() == "kept"
    assert mend(root) == find_faults(root) == []
    assert store.current("docs") == "docs@v3"
    assert store.current("other") == "other@v1"


def test_entries_that_can_be_read_are_kept(store: Store) -> None:
    root = Path(store.location)
    (root / ALIASES).write_text('{"docs": "docs@v2", "other": 3}')
    assert [fault.collection for fault in mend(root)] == [""]
    assert store.current("docs") == "docs@v2"
    assert store.current("other") == "other@v1"


@pytest.mark.parametrize("gone", ["the folder", "its manifest", "its shard"])
def test_a_current_version_that_is_gone_is_replaced_by_the_newest_whole(
    store: Store, gone: str
) -> None:
    root = Path(store.location)
    (root / "docs@v3" / "manifest.json").write_text("{")  # the newest is not whole
    lost = {"the folder": "docs@v2", "its manifest": "docs@v2/manifest.json"}
    path = root / lost.get(gone, "docs@v2/shard")
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if gone == "the folder":
        with pytest.raises(ManifestCorrupt, match=r"docs@v2, which is not in .* docs@v1, docs@v3"):
            store.open("docs")
    (fault,) = find_faults(root)
    assert (fault.collection, "docs@v2" in fault.text) == ("docs", True)
    assert mend(root) == [fault]
    assert store.current("docs") == "docs@v1"
    assert (root / "docs@v3").is_dir()
    assert find_faults(root) == []


def test_versions_of_which_none_is_current_can_be_had_again(store: Store) -> None:
    root = Path(store.location)
    (root / ALIASES).unlink()
    shutil.rmtree(root / "docs")
    with pytest.raises(CollectionNotFound, match=r"docs@v2, docs@v3") as error:
        store.open("docs")
    assert "retrieval switch docs docs@v3" in error.value.fix
    (fault,) = mend(root)
    assert fault.collection == "docs"
    assert store.current("docs") == "docs@v3"


def test_what_is_not_whole_anywhere_is_said_and_left(store: Store) -> None:
    root = Path(store.location)
    for version in ("docs", "docs@v2", "docs@v3"):
        (root / version / "manifest.json").write_text("{")
    before = everything(root)
    (fault,) = mend(root)
    assert (fault.collection, fault.mended) == ("docs", "")
    assert everything(root) == before
    assert store.current("docs") == "docs@v2"


def test_versions_that_are_being_built_are_no_fault(store: Store) -> None:
    root = Path(store.location)
    make(root, "docs@v4")
    (root / ".creating-docs@v5-0").mkdir()
    assert mend(root) == []
    assert store.current("docs") == "docs@v2"
    assert mend(root / "nowhere") == []


def test_the_doctor_says_what_is_wrong_and_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    for number, version in enumerate([None, "docs@v2", "docs@v3"], start=1):
        with store.create(make_manifest(), version=version) as index:
            fill(index, 2 * number)
    (tmp_path / ALIASES).write_text("")
    command = ["doctor", "docs", "--store", store.location]
    assert run(command) == 1
    assert "--repair" in capsys.readouterr().err
    assert run([*command, "--repair"]) == 0
    said = capsys.readouterr().out
    assert "mended: it is kept as @damaged-" in said
    assert "mended: it means the newest that is whole, docs@v3" in said
    assert examine("docs", store=store).points == 6

    make(tmp_path, "other@v2")
    found = examine("docs", store=store)
    assert (found.findings[0].check, found.findings[0].state) == ("store", "warning")
    assert "retrieval doctor docs --repair" in found.findings[0].fix
    make(tmp_path, "broken")
    (tmp_path / "broken" / "manifest.json").write_text("{")
    found = examine("docs", store=store, repair=True)
    texts = [one.text for one in found.findings if one.check == "store"]
    assert len(texts) == 2
    assert "broken@v1, which is not whole" in texts[0]
    assert "mended: it means the newest that is whole, other@v2" in texts[1]
