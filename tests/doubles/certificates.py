"""Certificates for tests over TLS, made by the `openssl` command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HAS_OPENSSL = shutil.which("openssl") is not None

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority, and the certificate with its key that it signed."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """A new authority, and its certificate for localhost and 127.0.0.1, good for two days."""
    if not HAS_OPENSSL:
        raise RuntimeError("there is no `openssl` command to make certificates with")
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    extensions = folder / "extensions.cnf"
    extensions.write_text(
        "basicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=serverAuth,clientAuth\n"
        "subjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid\n"
        "subjectAltName=DNS:localhost,IP:127.0.0.1\n"
    )
    authority_key, request = folder / "ca.key", folder / "server.csr"
    _openssl(
        *["req", "-x509", *_KEY, "-days", "2", "-subj", "/CN=authority of a test double"],
        *["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        *["-keyout", str(authority_key), "-out", str(made.authority)],
    )
    _openssl(
        *["req", *_KEY, "-subj", "/CN=localhost"],
        *["-keyout", str(made.key), "-out", str(request)],
    )
    _openssl(
        *["x509", "-req", "-days", "2", "-in", str(request), "-CA", str(made.authority)],
        *["-CAkey", str(authority_key), "-CAcreateserial", "-extfile", str(extensions)],
        *["-out", str(made.certificate)],
    )
    return made


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
