"""The whole OpenAPI document against the whole service: no fault, and nothing it does not say.

Schemathesis sends what fits each operation's schema and what breaks it, from a fixed seed. Its
phase "coverage" is left out: thousands of requests, one for each bound of each field, which took
as long as a tenth of all other tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from service_help import small_service

# Two answers of 5xx are deliberate: 501 where no language model is configured, and 504 after a
# request's own timeout_ms. The shapes of other protocols read what their servers read (0 for
# false, fields that nobody knows), so that only the native ones must refuse all that is off.
CONFIG = """\
seed = 20260101
color = false

[checks]
enabled = false
not_a_server_error.enabled = true
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "501", "504"]
status_code_conformance.enabled = true
content_type_conformance.enabled = true
response_headers_conformance.enabled = true
response_schema_conformance.enabled = true
negative_data_rejection.enabled = true

[generation]
max-examples = 6
no-shrink = true

[phases]
coverage.enabled = false
stateful.enabled = false

[[operations]]
include-path-regex = "^/(embed|embed_sparse|rerank|retrieval|v2/|v1/(rerank|embeddings|vector_stores|answer|chat))"
checks.negative_data_rejection.enabled = false
"""  # noqa: E501


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_operation_does_what_the_document_says(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    report_file = tmp_path / "report.json"
    with small_service(tmp_path / "service") as service:
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                "from schemathesis.cli import schemathesis; schemathesis()",
                f"--config-file={tmp_path / 'schemathesis.toml'}",
                "run",
                f"{service.url}/openapi.json",
                "--continue-on-failure",
                "--warnings=off",
                "--report=json",
                f"--report-json-path={report_file}",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        # it is still alive, and has forgotten nothing that it had before
        alive = httpx.get(f"{service.url}/healthz")
    assert alive.status_code == 200
    assert report_file.exists(), run.stdout + run.stderr
    report = json.loads(report_file.read_text())
    assert report["test_cases"]["unique_failures"] == 0, run.stdout
    assert run.returncode == 0, run.stdout + run.stderr
    assert report["operations"]["tested"] == report["operations"]["total"] > 30
    assert report["test_cases"]["generated"] > 200
