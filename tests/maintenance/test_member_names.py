"""What a backup calls its files leads nowhere but into the collection that is restored."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from maintenance_help import make_manifest

from retrieval.errors import RetrievalError
from retrieval.index.manifest import manifest_to_dict, prepare_manifest
from retrieval.index.store import Store
from retrieval.maintenance.backup import restore_collection

ODD = """../x /x ../@aliases.json a/../../x .. . lock shard manifest.json shard/../../x é ..\\x
C:\\x a//b ./a""".split()  # noqa: SIM905
NAMES = st.text(max_size=30) | st.sampled_from([*ODD, "", "a\0b", "\ud800", "e\u0301", "a" * 300])


def archive(path: Path, name: str, link: str | None) -> None:
    manifest = json.dumps(
        manifest_to_dict(prepare_manifest("new", make_manifest("new"))), default=str
    ).encode()
    members = {"manifest.json": manifest, name: b"data"}
    digests = {key: hashlib.sha256(data).hexdigest() for key, data in members.items()}
    contents = {"retrieval_backup": 1, "points": 0, "files": digests}
    members = {"backup.json": json.dumps(contents).encode(), **members}
    with tarfile.open(path, "w:gz") as tar:
        for key, data in members.items():
            head = tarfile.TarInfo(key)
            if link is not None and key == name:
                head.type, head.linkname = tarfile.SYMTYPE, link
            else:
                head.size = len(data)
            try:
                tar.addfile(head, io.BytesIO(data))
            except (ValueError, UnicodeError):
                assert key == name  # no archive can hold it; the list still names it


@settings(deadline=None, max_examples=60)
@given(NAMES, st.sampled_from([None, "../../secret", "/etc/passwd"]))
@example("../@aliases.json", None)
@example("\ud800", None)
@example("a\0b", None)
def test_members_lead_nowhere_else(name: str, link: str | None) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "store"
        root.mkdir()
        (Path(place) / "secret").write_text("secret")
        (root / "@aliases.json").write_text("{}")
        source = Path(place) / "b.tar.gz"
        archive(source, name, link)
        with contextlib.suppress(RetrievalError):
            restore_collection(source, store=Store(root))
        assert {entry.name for entry in Path(place).iterdir()} == {"store", "secret", "b.tar.gz"}
        assert {entry.name for entry in root.iterdir()} <= {"@aliases.json", "new"}
        assert (root / "@aliases.json").read_text() == "{}"
        for path in root.rglob("*"):
            assert not path.is_symlink()
            assert not path.is_file() or "secret" not in path.read_text(errors="replace")
