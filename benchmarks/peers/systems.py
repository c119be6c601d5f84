"""How each system is loaded and run, each as its own documentation shows it.

`load(settings)` gives a `System`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from base import MAX_LENGTH, System
from plain import onnxruntime_int8, reference

_PACKAGES = ("torch", "transformers", "sentence-transformers", "FlagEmbedding", "onnxruntime")
_PACKAGES += ("onnx", "optimum", "optimum-onnx", "optimum-intel", "openvino", "nncf", "numpy")


def load(settings: dict[str, Any]) -> System:
    """Settings: system, task, model (folder), device, cache (folder), and the system's options."""
    loaders = {
        "retrieval": _retrieval,
        "FlagEmbedding": _flag_embedding,
        "sentence-transformers": _sentence_transformers,
        "onnxruntime": onnxruntime_int8,
        "reference": reference,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages, while they are imported and loaded
        return loaders[settings["system"]](settings)


def versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _retrieval(settings: dict[str, Any]) -> System:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
    from retrieval.models import batching
    from retrieval.models.encoders.bi_encoder import BiEncoder
    from retrieval.models.rerankers.cross_encoder import CrossEncoderReranker
    from retrieval.types import ModelSpec, ResolvedModel

    options = {key: settings[key] for key in ("engine", "dtype", "token_budget") if key in settings}
    options |= {"device": settings["device"], "cache_dir": Path(settings["cache"])}
    if settings.get("dtype") == "int8" and "calibration" in settings:
        options["calibration"] = settings["calibration"]
    path = Path(settings["model"])
    fields: dict[str, Any] = {"max_length": MAX_LENGTH}
    model: Any
    if settings["task"] == "encode":
        fields |= {"dimension": settings["dimension"], "pooling": "cls"}
        spec = ModelSpec(path.name, "encoder", **fields)
        model = BiEncoder(ResolvedModel(spec, path, ""), **options)
        system = System(
            run=lambda texts: model.encode_passages(texts).vectors,
            run_query=lambda text: model.encode_queries([text]),
            detail=model.engine,
            dtype=model.engine.split()[1],
        )
    else:
        spec = ModelSpec(path.name, "reranker", score_head="classification", **fields)
        # Without its cache of token ids: every round would find those of the round before.
        model = CrossEncoderReranker(ResolvedModel(spec, path, ""), token_cache_bytes=0, **options)

        def score(pairs: list[list[str]]) -> Any:
            if settings.get("read") == "excerpts":
                pairs = excerpted(pairs)
            return model.score([(query, passage) for query, passage in pairs]).values

        detail = f"{model.engine}, {settings.get('read', 'full')}"
        system = System(score, detail, model.engine.split()[1], run_query=score)
    packed = model.engine.startswith("packed")
    plan = batching.plan_batches

    def counted(lengths: Any, **arguments: Any) -> Any:
        batches = plan(lengths, **arguments)
        widths = [len(batch) * int(lengths[batch].max()) for batch in batches]
        system.computed += int(np.sum(lengths)) if packed else sum(widths)
        return batches

    batching.plan_batches = counted
    return system


def excerpted(pairs: list[list[str]]) -> list[list[str]]:
    """The pairs with what a search would read of each passage, chosen as it does; pairs of one
    query are its candidates."""
    from retrieval.index.bm25 import bm25_info
    from retrieval.search.excerpts import Excerpts
    from retrieval.types import Passage

    excerpts = Excerpts(bm25_info("english"))
    chosen: list[list[str]] = []
    by_query: dict[str, list[str]] = {}
    for query, text in pairs:
        by_query.setdefault(query, []).append(text)
    for query, texts in by_query.items():
        passages = [Passage(str(i), str(i), 0, t, 0, len(t)) for i, t in enumerate(texts)]
        chosen += [[query, part.text] for part in excerpts.of(query, passages)]
    return chosen


def _flag_embedding(settings: dict[str, Any]) -> System:
    from FlagEmbedding import FlagModel, FlagReranker

    device = settings["device"]
    half = device != "cpu"
    # Without a batch size its own default holds: 256 texts, 128 pairs.
    options = {"batch_size": settings["batch_size"]} if "batch_size" in settings else {}
    options |= {"devices": device, "use_fp16": half}
    model: Any
    if settings["task"] == "encode":
        model = FlagModel(settings["model"], **options)
        system = System(
            run=lambda texts: np.asarray(model.encode_corpus(texts, max_length=MAX_LENGTH)),
            run_query=lambda text: model.encode_queries([text]),
            detail=f"batch size {model.batch_size}",
            dtype="fp16" if half else "fp32",
        )
    else:
        model = FlagReranker(settings["model"], max_length=MAX_LENGTH, **options)

        def score(pairs: list[Any]) -> Any:
            return np.asarray(model.compute_score(pairs), dtype=np.float64)

        detail = f"batch size {model.batch_size}"
        system = System(score, detail, "fp16" if half else "fp32", run_query=score)
    system.watch(model.model)
    return system


_EXPORTED = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}


def _sentence_transformers(settings: dict[str, Any]) -> System:
    """Backend torch, onnx, onnx-int8 (dynamic, its own recipe), openvino or openvino-int8 (static,
    its own recipe)."""
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer

    encodes = settings["task"] == "encode"
    made: Any = SentenceTransformer if encodes else CrossEncoder
    backend = settings.get("backend", "torch")
    device, batch = settings["device"], settings.get("batch_size", 32)
    options: dict[str, Any] = {"device": device}
    dtype = "fp32"
    if backend == "torch":
        if device != "cpu":
            dtype = "fp16"
            options["model_kwargs"] = {"dtype": torch.float16}
    else:
        options["backend"] = backend.split("-")[0]
        if backend.startswith("onnx"):
            options["model_kwargs"] = {"provider": "CPUExecutionProvider"}
        if backend == "onnx-int8":
            options["model_kwargs"]["file_name"] = _quantized_file(made, settings, options)
            dtype = "int8"
        if backend == "openvino-int8":
            options["model_kwargs"] = {"file_name": _static_file(made, settings, options)}
            dtype = "int8"
    model = made(settings["model"], **options)
    inner: Any = model[0].auto_model if encodes else model.model
    if backend in _EXPORTED:
        _keep_export(inner, Path(settings["model"]), _EXPORTED[backend])
    if backend == "openvino":
        dtype = _openvino_dtype(inner)
    detail = f"{backend}, batch size {batch}"
    if encodes:
        model.max_seq_length = MAX_LENGTH

        def encode(texts: list[str]) -> Any:
            return np.asarray(
                model.encode(
                    texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False
                )
            )

        system = System(encode, detail, dtype, run_query=lambda text: encode([text]))
    else:
        if hasattr(model, "max_seq_length"):
            model.max_seq_length = MAX_LENGTH
        else:
            model.max_length = MAX_LENGTH
        identity = torch.nn.Identity()

        def score(pairs: list[Any]) -> Any:
            result = model.predict(
                pairs, activation_fn=identity, batch_size=batch, show_progress_bar=False
            )
            return np.asarray(result, dtype=np.float64)

        system = System(score, detail, dtype, run_query=score)
    system.watch(inner)
    return system


def _keep_export(model: Any, folder: Path, file: str) -> None:
    """Export once, as a user would: kept beside the model, whose own files stay as they are."""
    target = (folder / file).parent
    if (folder / file).exists():
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
        model.save_pretrained(draft)
        target.mkdir(exist_ok=True)
        for exported in (Path(draft) / target.name).iterdir():
            exported.rename(target / exported.name)


def _quantized_file(made: Any, settings: dict[str, Any], options: dict[str, Any]) -> str:
    """Quantised as sentence-transformers' page on efficiency says, beside the model."""
    from sentence_transformers import export_dynamic_quantized_onnx_model

    kind = settings["instructions"]
    file = f"onnx/model_qint8_{kind}.onnx"
    if not (Path(settings["model"]) / file).exists():
        model = made(settings["model"], **options)
        export_dynamic_quantized_onnx_model(model, kind, settings["model"])
    return file


def _static_file(made: Any, settings: dict[str, Any], options: dict[str, Any]) -> str:
    """Quantised as sentence-transformers' page on efficiency says, beside the model.

    The data set is a local folder: the page's own one would come from a model hub.
    """
    from optimum.intel import OVQuantizationConfig
    from sentence_transformers import export_static_quantized_openvino_model

    file = "openvino/openvino_model_qint8_quantized.xml"
    if not (Path(settings["model"]) / file).exists():
        texts = settings["calibration"]
        model = made(settings["model"], **options)
        with tempfile.TemporaryDirectory() as folder:
            lines = [json.dumps({"sentence": text}) for text in texts]
            (Path(folder) / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
            export_static_quantized_openvino_model(
                model,
                OVQuantizationConfig(num_samples=len(texts)),
                settings["model"],
                dataset_name=folder,
                dataset_config_name="default",
                dataset_split="train",
                column_name="sentence",
            )
    return file


def _openvino_dtype(model: Any) -> str:
    """What the compiled graph says of itself: the plug-in takes bf16 by itself where it is fast."""
    if getattr(model, "request", None) is None and hasattr(model, "compile"):
        model.compile()
    compiled = getattr(model, "compiled_model", None) or getattr(model, "request", None)
    if hasattr(compiled, "get_compiled_model"):
        compiled = compiled.get_compiled_model()
    name = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return {"f32": "fp32", "f16": "fp16"}.get(name, name)
