"""What callers of the service name becomes no path but those that it makes up itself."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
from backend_help import Made, Make
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.errors import Forbidden, NotHere
from app.jobs.jobs import Jobs
from app.jobs.sources import JobSources
from app.jobs.uploads import MOST_NAME, safe_name, safe_suffix
from app.types import JobSource

ODD = """../../x /etc/passwd ..\\..\\x C:\\x . .. ... con NUL.txt aux.pdf a. .txt a.TXT
files.json documents.jsonl ../documents.jsonl problems.json jobs.sqlite @aliases.json ~ %2e%2e%2f
．．／x a.\u202etxt é.pdf e\u0301.pdf a.\u212a""".split()  # noqa: SIM905
ODD += ["", " ", "a\0b", "a\nb.txt", "\ud800.txt", "a" * 300 + ".pdf", "a." + "b" * 300, "a/"]
NAMES = st.sampled_from(ODD) | st.text(max_size=300)
OWN = re.compile(r"[0-9]{4}(\.[a-z0-9]{1,11})?")


@settings(deadline=None)
@given(NAMES)
def test_a_name_that_is_kept_is_one_part_that_can_be_shown(given_name: str) -> None:
    name = safe_name(given_name)
    assert 1 <= len(name) <= MOST_NAME
    assert name.isprintable() or not name.isascii()
    assert not {"/", "\\", "\0", "\n"} & set(name)
    assert name not in (".", "..")
    name.encode()
    assert OWN.fullmatch(f"0001{safe_suffix(given_name)}")


@settings(deadline=None, max_examples=60)
@given(st.lists(NAMES, min_size=1, max_size=5))
@example(["../files.json", "files.json", "documents.jsonl"])
def test_uploads_lie_in_their_jobs_folder_under_its_own_names(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        state = Path(place) / "state"
        (Path(place) / "sent").mkdir()
        uploads = []
        for number, name in enumerate(names):
            path = Path(place) / "sent" / str(number)
            path.write_text(name.encode("utf-8", "replace").decode())
            uploads.append((name, path))
        JobSources(state).take("job-1", JobSource(files=uploads))
        assert {entry.name for entry in Path(place).iterdir()} == {"state", "sent"}
        home = state / "jobs" / "job-1"
        assert {entry.name for entry in home.iterdir()} == {"files", "files.json"}
        assert [path.name for path in state.iterdir()] == ["jobs"]
        files = sorted((home / "files").iterdir())
        assert len(files) == len(names)
        assert all(OWN.fullmatch(path.name) for path in files)
        listed = json.loads((home / "files.json").read_text())
        assert [one["file"] for one in listed] == [path.name for path in files]


def test_only_ids_of_jobs_lead_to_folders(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "state", lambda *_: pytest.fail("nothing runs"))
    jobs.open()
    (tmp_path / "victim").mkdir()
    try:
        for name in [*ODD, "../../victim", str(tmp_path / "victim"), "job-1' OR '1'='1"]:
            if name == "\ud800.txt":
                continue  # no address can hold it
            for call in (jobs.get, jobs.cancel):
                with pytest.raises(NotHere, match="no job"):
                    call(name)
    finally:
        jobs.close()
    assert (tmp_path / "victim").is_dir()


@pytest.fixture
def rooted(make: Make, tmp_path: Path) -> Made:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    (tmp_path / "root2").mkdir()
    return make(ingest_roots=(root,))


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(["..", ".", "sub", "out", "root", "root2", "", "a\0"]) | NAMES))
@example(["..", "root2"])
@example(["out", "root2"])
@example(["\ud800"])
def test_paths_of_jobs_lie_below_a_root_or_are_refused(
    rooted: Made, tmp_path: Path, parts: list[str]
) -> None:
    root = tmp_path / "root"
    given_path = "/".join([str(root), *parts])
    try:
        allowed = rooted.backend.jobs._allowed(given_path)
    except Forbidden as refused:
        assert "ingest_roots" in refused.fix  # noqa: PT017
        return
    assert Path(allowed).is_relative_to(root)
    assert Path(allowed) == Path(allowed).resolve()
