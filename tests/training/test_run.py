"""Runs of both stages on tiny models: what they learn, resume, refuse and write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from training import loaders
from training.training_data import kill_when, run, settings_for, write_examples

from retrieval import BiEncoder, CrossEncoderReranker
from retrieval.api.train import train
from retrieval.errors import InvalidInput
from retrieval.models.resolve import resolve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("data") / "train.jsonl")


def _models(tiny_bert_encoder: Path, tiny_bert_reranker: Path) -> dict[str, Path]:
    return {"encoder": tiny_bert_encoder, "reranker": tiny_bert_reranker}


@pytest.mark.parametrize("stage", ["encoder", "reranker"])
def test_a_run_learns_and_its_folder_loads(
    stage: str, data: Path, tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    model = _models(tiny_bert_encoder, tiny_bert_reranker)[stage]
    notices: list[str] = []
    settings = settings_for(stage, model, data, tmp_path / "tuned", num_train_epochs=6)
    report = run(settings, on_notice=notices.append)
    losses = [loss for _, loss in report.losses]
    assert len(losses) == report.steps == 48
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    assert report.before is not None
    assert report.after == max(value for _, value in report.measured)
    assert any("48 steps of about" in sentence and "GB free" in sentence for sentence in notices)
    out = tmp_path / "tuned"
    card = (out / "README.md").read_text("utf-8")
    assert "train.jsonl" in card
    assert report.fingerprint in card
    record = json.loads((out / "training.json").read_text("utf-8"))
    assert record["settings"]["learning_rate"] == 0.001
    before, after = resolve(model, stage), resolve(out, stage)
    for name in ("pooling", "normalize", "max_length", "query_instruction", "score_head"):
        assert getattr(before.spec, name) == getattr(after.spec, name)
    assert before.fingerprint != after.fingerprint
    texts = ["bone ctwo dred", "gsea"]
    if stage == "encoder":
        from sentence_transformers import SentenceTransformer

        with BiEncoder(out) as encoder:
            ours = encoder.encode_passages(texts).vectors
        theirs = SentenceTransformer(str(out), device="cpu").encode(texts)
    else:
        from sentence_transformers import CrossEncoder

        pairs = [(texts[0], texts[1]), (texts[1], texts[0])]
        ours = CrossEncoderReranker(out).score(pairs).values
        theirs = CrossEncoder(str(out), device="cpu").predict(pairs)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_flag_embedding_and_transformers_read_our_folders(
    data: Path, tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    instruction = "Represent this sentence for searching relevant passages: "
    more = {"max_steps": 3, "query_instruction_for_retrieval": instruction}
    encoder, reranker = tmp_path / "encoder", tmp_path / "reranker"
    run(settings_for("encoder", tiny_bert_encoder, data, encoder, **more))
    run(settings_for("reranker", tiny_bert_reranker, data, reranker, max_steps=3))
    queries = loaders.QUERIES
    ours = loaders.our_encoder(encoder).encode_queries(queries)
    theirs = loaders.flag_vectors(encoder, queries, instruction, "cls")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    np.testing.assert_allclose(ours, loaders.sentence_vectors(encoder, queries, "query"), atol=1e-4)
    scores = loaders.our_reranker(reranker).score(loaders.PAIRS).values
    np.testing.assert_allclose(scores, loaders.flag_scores(reranker), atol=1e-4)
    np.testing.assert_allclose(scores, loaders.transformers_scores(reranker), atol=1e-4)


def test_two_variants_are_averaged(data: Path, tmp_path: Path, tiny_bert_encoder: Path) -> None:
    from safetensors.numpy import load_file

    out = tmp_path / "both"
    more = {"max_steps": 2, "query_instruction_for_retrieval": "Find: ", "two_variants": True}
    train(settings_for("encoder", tiny_bert_encoder, data, out, **more))
    parts = [
        load_file(tmp_path / f"both-{one}" / "model.safetensors") for one in ("instructed", "bare")
    ]
    for name, tensor in load_file(out / "model.safetensors").items():
        np.testing.assert_allclose(tensor, (parts[0][name] + parts[1][name]) / 2, atol=1e-6)
    assert resolve(out, "encoder").spec.query_instruction == "Find: "
    assert resolve(tmp_path / "both-bare", "encoder").spec.query_instruction == ""
    more = {"max_steps": 2, "query_instruction_for_retrieval": "", "two_variants": True}
    with pytest.raises(InvalidInput, match="takes no query instruction"):
        train(settings_for("encoder", tiny_bert_encoder, data, tmp_path / "none", **more))


@pytest.mark.parametrize("stage", ["encoder", "reranker"])
def test_lora_is_merged(
    stage: str, data: Path, tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    model = _models(tiny_bert_encoder, tiny_bert_reranker)[stage]
    settings = settings_for(stage, model, data, tmp_path / "t", lora_rank=4, lora_alpha=8)
    report = run(settings)
    assert report.losses[-1][1] != report.losses[0][1]
    found = resolve(tmp_path / "t", stage)
    assert not list((tmp_path / "t").glob("adapter*"))
    from safetensors.numpy import load_file

    tuned = load_file(found.path / "model.safetensors")
    start = load_file(model / "model.safetensors")
    assert set(tuned) == set(start)
    moved = [name for name in start if not np.allclose(tuned[name], start[name])]
    assert moved
    assert all(name.endswith("weight") for name in moved)
    assert not any("LayerNorm" in name or "embeddings" in name for name in moved)


@pytest.mark.parametrize("stage", ["encoder", "reranker"])
def test_a_killed_run_ends_as_an_unkilled_one(
    stage: str, data: Path, tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    """SIGKILL right after two checkpoints and between two: losses and weights of one run."""
    model = _models(tiny_bert_encoder, tiny_bert_reranker)[stage]
    more = {"eval_steps": 4, "gradient_cache": "on" if stage == "encoder" else "off"}
    whole = run(settings_for(stage, model, data, tmp_path / "whole", **more))
    work = tmp_path / "cut.training"
    for reached in (
        lambda: (work / "checkpoint-4" / "trainer_state.json").exists(),
        lambda: _logged(work / "log.jsonl", step=10),
        lambda: (work / "checkpoint-12" / "trainer_state.json").exists(),
    ):
        _killed(stage, model, data, tmp_path / "cut", more, reached)
    resumed = run(settings_for(stage, model, data, tmp_path / "cut", **more))
    assert [step for step, _ in resumed.losses] == [step for step, _ in whole.losses]
    np.testing.assert_allclose(
        [loss for _, loss in resumed.losses], [loss for _, loss in whole.losses], atol=1e-6
    )
    assert dict(resumed.measured) == pytest.approx(dict(whole.measured))
    assert resumed.before == whole.before
    ours = (tmp_path / "cut" / "model.safetensors").read_bytes()
    assert ours == (tmp_path / "whole" / "model.safetensors").read_bytes()


def _logged(log: Path, step: int) -> bool:
    """Whether the loss of a step has been written down."""
    lines = log.read_text().splitlines() if log.exists() else []
    return any(json.loads(line).get("step") == step for line in lines)


def _killed(
    stage: str, model: Path, data: Path, out: Path, more: dict, reached: Callable[[], bool]
) -> None:
    """Train in another process, and kill it once it is so far."""
    command = [str(Path(__file__).with_name("training_data.py"))]
    command += [stage, str(model), str(data), str(out), json.dumps(more)]
    path = f"{ROOT}:{ROOT / 'tests'}"
    kill_when(reached, command, PYTHONPATH=path, OMP_NUM_THREADS="1")


def test_half_a_checkpoint_is_not_gone_on_with(
    data: Path, tmp_path: Path, tiny_bert_encoder: Path
) -> None:
    from retrieval.training.identity import Place

    place = Place.of(str(tmp_path / "tuned"))
    for step, content in ((4, "{}"), (8, '{"best'), (12, None)):
        folder = place.work / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    assert place.checkpoint() == place.work / "checkpoint-4"
    assert not (place.work / "checkpoint-8").exists()
    assert not (place.work / "checkpoint-12").exists()


def test_another_run_is_not_gone_on_with(
    data: Path, tmp_path: Path, tiny_bert_encoder: Path
) -> None:
    settings = settings_for("encoder", tiny_bert_encoder, data, tmp_path / "t", max_steps=2)
    run(settings)
    again = run(settings)  # it is done: nothing is trained anew
    assert again.steps == 2
    other = settings_for(
        "encoder", tiny_bert_encoder, data, tmp_path / "t", max_steps=2, temperature=0.05
    )
    with pytest.raises(InvalidInput, match=r"holds another run: its settings differ"):
        run(other)
    assert run(other, restart=True).steps == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(InvalidInput, match="not empty"):
        run(settings_for("encoder", tiny_bert_encoder, data, tmp_path / "full", max_steps=2))
    assert (tmp_path / "full" / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("kind", ["kl_div", "margin_mse"])
@pytest.mark.parametrize("stage", ["encoder", "reranker"])
def test_distillation(
    stage: str, kind: str, tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    scored = write_examples(tmp_path / "scored.jsonl", queries=12, scored=True)
    model = _models(tiny_bert_encoder, tiny_bert_reranker)[stage]
    more = {"max_steps": 2, "knowledge_distillation": kind}
    assert run(settings_for(stage, model, scored, tmp_path / "t", **more)).steps == 2
    plain = write_examples(tmp_path / "plain.jsonl", queries=12)
    with pytest.raises(InvalidInput, match=r"12 of 12 examples have no pos_scores|of \d+ examples"):
        run(settings_for(stage, model, plain, tmp_path / "u", **more))


def test_matryoshka_is_declared(data: Path, tmp_path: Path, tiny_bert_encoder: Path) -> None:
    out = tmp_path / "t"
    run(settings_for("encoder", tiny_bert_encoder, data, out, max_steps=2, mrl_dims=[64, 32]))
    assert resolve(out, "encoder").spec.matryoshka == (64, 32)
    with BiEncoder(out, truncate_dim=32) as encoder:
        assert encoder.info.dimension == 32
    with pytest.raises(InvalidInput, match="mrl_dims has 65"):
        run(settings_for("encoder", tiny_bert_encoder, data, tmp_path / "u", mrl_dims=[65]))


def test_the_instruction_is_the_runs_own(
    data: Path, tmp_path: Path, tiny_bert_encoder: Path
) -> None:
    out = tmp_path / "t"
    more = {"max_steps": 2, "query_instruction_for_retrieval": "Find: "}
    run(settings_for("encoder", tiny_bert_encoder, data, out, **more))
    assert resolve(out, "encoder").spec.query_instruction == "Find: "


def test_what_cannot_be_trained_is_refused(
    data: Path, tmp_path: Path, tiny_bert_encoder: Path, tiny_bert_reranker: Path
) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"query": "a one", "pos": ["b two"], "neg": []}\n' * 1)
    with pytest.raises(InvalidInput, match="have no negatives"):
        run(settings_for("reranker", tiny_bert_reranker, bare, tmp_path / "t", dev_share=0))
    with pytest.raises(InvalidInput, match="takes about"):
        run(settings_for("encoder", tiny_bert_encoder, data, tmp_path / "t", most_minutes=1e-5))
    with pytest.raises(InvalidInput, match=r"Did you mean learning_rate"):
        settings_for("encoder", tiny_bert_encoder, data, tmp_path / "t", learningrate=1)
    with pytest.raises(InvalidInput, match=r"temperature is 0, expected a number above 0"):
        settings_for("encoder", tiny_bert_encoder, data, tmp_path / "t", temperature=0)
    with pytest.raises(InvalidInput, match="dtype is fp16"):
        run(settings_for("encoder", tiny_bert_encoder, data, tmp_path / "t", dtype="fp16"))


def test_few_examples_are_all_trained_on(tmp_path: Path, tiny_bert_encoder: Path) -> None:
    notices: list[str] = []
    few = write_examples(tmp_path / "few.jsonl", queries=3)
    report = run(
        settings_for("encoder", tiny_bert_encoder, few, tmp_path / "t", dev_share=0.1),
        on_notice=notices.append,
    )
    assert (report.queries, report.dev_queries) == (3, 0)
    assert notices[0].startswith("of 3 queries none can be held out (dev_share 0.1)")


def test_pairs_alone_train_an_encoder(tmp_path: Path, tiny_bert_encoder: Path) -> None:
    """Without any negative but those of the batch: FlagEmbedding divides by zero there."""
    pairs = tmp_path / "pairs.jsonl"
    lines = [
        json.dumps({"query": f"q {n} sun", "pos": [f"p {n} sea"], "neg": []}) for n in range(9)
    ]
    pairs.write_text("\n".join(lines))
    report = run(settings_for("encoder", tiny_bert_encoder, pairs, tmp_path / "t", dev_share=0))
    assert report.before is None
    assert all(np.isfinite(loss) for _, loss in report.losses)
