"""What has no package of its own: plain ONNX Runtime, and plain transformers as the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from base import MAX_LENGTH, System


def onnxruntime_int8(settings: dict[str, Any]) -> System:
    """Plain ONNX Runtime: exported, fused by its own optimiser, dynamically quantised to int8.

    Texts are sorted by length and run 32 at a time, which is what a careful user would write.
    """
    import onnxruntime
    from transformers import AutoTokenizer

    file = Path(settings["cache"]) / f"onnxruntime-int8-{Path(settings['model']).name}.onnx"
    if not file.exists():
        _export_int8(settings, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    wanted = [given.name for given in session.get_inputs()]
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    encodes = settings["task"] == "encode"
    batch = settings.get("batch_size", 32)

    def run(inputs: list[Any]) -> Any:
        columns = [inputs] if encodes else [list(column) for column in zip(*inputs, strict=True)]
        cut = True if encodes else "only_second"
        ids = tokenizer(*columns, truncation=cut, max_length=MAX_LENGTH)
        order = np.argsort([-len(row) for row in ids["input_ids"]], kind="stable")
        results: list[Any] = [None] * len(inputs)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            part = {name: [ids[name][row] for row in rows] for name in ids}
            padded = tokenizer.pad(part, return_tensors="np")
            system.computed += padded["input_ids"].size
            feed = {name: padded[name].astype(np.int64) for name in wanted}
            for row, value in zip(rows, session.run(None, feed)[0], strict=True):
                results[row] = value
        values = np.stack(results)
        if not encodes:
            return values.reshape(-1).astype(np.float64)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    alone = (lambda text: run([text])) if encodes else run
    system = System(run, f"dynamic int8, batch size {batch}", "int8", run_query=alone)
    return system


def _export_int8(settings: dict[str, Any], file: Path) -> None:
    import torch
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoTokenizer

    model = _plain_model(settings, attn_implementation="eager")
    encodes = settings["task"] == "encode"

    class Headed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            named = dict(zip(names, inputs, strict=True))
            output = self.model(**named, return_dict=False)[0]
            return output[:, 0] if encodes else output

    example = AutoTokenizer.from_pretrained(settings["model"])(
        ["an example", "another one"], return_tensors="pt"
    )
    names = list(example)
    axes = {name: {0: "batch", 1: "length"} for name in names} | {"output": {0: "batch"}}
    plain = file.with_suffix(".fp32.onnx")
    torch.onnx.export(
        Headed().eval(), tuple(example.values()), str(plain), input_names=names,
        output_names=["output"], dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    fused = optimizer.optimize_model(
        str(plain),
        model_type="bert",
        num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size,
    )
    fused.save_model_to_file(str(plain))
    draft = file.with_suffix(".draft.onnx")
    # The fused operators are ONNX Runtime's own, whose types the quantiser cannot infer.
    types = {"DefaultTensorType": TensorProto.FLOAT}
    quantize_dynamic(str(plain), str(draft), weight_type=QuantType.QInt8, extra_options=types)
    plain.unlink()
    draft.rename(file)


def _plain_model(settings: dict[str, Any], **options: Any) -> Any:
    from transformers import AutoModel, AutoModelForSequenceClassification

    auto = AutoModel if settings["task"] == "encode" else AutoModelForSequenceClassification
    return auto.from_pretrained(settings["model"], **options).eval()


def reference(settings: dict[str, Any]) -> System:
    """transformers alone, in fp32: what the others are compared with."""
    import torch
    from transformers import AutoTokenizer

    model = _plain_model(settings).float().to(settings["device"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    encodes = settings["task"] == "encode"

    def run(inputs: list[Any]) -> Any:
        results = []
        with torch.inference_mode():
            for one in inputs:  # alone: no padding, whose effect would be one more difference
                columns = [one] if encodes else [one[0], one[1]]
                ids = tokenizer(
                    *columns,
                    truncation=True if encodes else "only_second",
                    max_length=MAX_LENGTH,
                    return_tensors="pt",
                ).to(settings["device"])
                output = model(**ids, return_dict=False)[0]
                results.append(output[0, 0].float().cpu().numpy())
        values = np.stack(results)
        if not encodes:
            return values.astype(np.float64)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    return System(run, "transformers, one by one", "fp32", run_query=run)
