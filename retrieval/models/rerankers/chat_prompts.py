"""Prompts of rerankers that read a query and a passage as messages of a chat.

The text is what the folder's own chat template makes of the roles `system` (the task), `query` and
`document`, as sentence-transformers' `CrossEncoder` renders it; for a Qwen3-Reranker without such a
template, what its model card shows. It is tokenised as one string; where it is too long, the
passage is cut and the end of the prompt kept, as both of them do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrieval._validate import without_surrogates
from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.known_modern import QWEN3_TASK
from retrieval.models.model_folder import read_folder
from retrieval.models.rerankers.llm_prompts import Prompts, load_tokenizer
from retrieval.models.score_modules import AnswerTokens, answer_tokens, chat_settings
from retrieval.models.tokenization.cutting import cut_text
from retrieval.types import ResolvedModel

_QUERY, _PASSAGE = "\u2983query\u2984", "\u2983passage\u2984"  # brackets that no template has
_QWEN3 = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {task}\n<Query>: ",
    "\n<Document>: ",
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
_LEAST = 8  # tokens for a pair; below this nothing of it is read


class ChatTemplate:
    """Turns pairs into prompts of a chat.

    Args:
        model: the reranker.
        task: what is asked for; None for the model's own.
        max_length: longest prompt in tokens, all of it counted.

    Raises:
        ModelNotFound: it has no tokeniser that can be read.
        InvalidInput: its chat template renders no pairs, or `max_length` is too short for it.
        ModelFault: the vocabulary has no single token for the answer.
    """

    def __init__(self, model: ResolvedModel, task: str | None, max_length: int) -> None:
        tokenizer = load_tokenizer(model)
        self._backend = tokenizer.backend_tokenizer
        self._before, self._between, self._behind = _parts(model, tokenizer, task)
        self._max_length = max_length
        self._end = self._common_end()
        whole = len(self._ids([self._before + self._between + self._behind])[0])
        if whole + _LEAST > max_length:
            raise InvalidInput(
                f"max_length={max_length} was given for {model.spec.name}, whose prompt alone has "
                f"{whole} tokens",
                fix=f"Give at least {whole + _LEAST}, or leave it out.",
            )
        self._query_room = min(max_length * 3 // 4, max_length - whole - _LEAST)
        self.answer = _answer(model, tokenizer)

    def fill(self, pairs: Sequence[tuple[str, str]]) -> Prompts:
        """The prompt of each (query, passage) pair, cut to `max_length`.

        A query keeps three quarters of `max_length` at most, less where the prompt is long, so
        that something is read of the passage.
        """
        short = {
            query: cut_text(self._backend, without_surrogates(query), self._query_room)
            for query in dict.fromkeys(query for query, _ in pairs)
        }
        texts, cut = [], []
        for query, passage in pairs:
            text = self._before + short[query].text + self._between
            texts.append(text + without_surrogates(passage) + self._behind)
            cut.append(short[query].missing)
        rows, full = [], []
        for ids, missing in zip(self._ids(texts), cut, strict=True):
            full.append(len(ids) + missing)
            if len(ids) > self._max_length:
                ids = ids[: self._max_length - len(self._end)] + self._end
            rows.append(np.array(ids, dtype=np.int64))
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        counted = np.array(full, dtype=np.int64)
        return Prompts(
            rows=rows,
            queries=np.zeros(len(rows), dtype=np.int64),
            prompt=len(self._end),
            full=counted,
            truncated=counted > lengths,
        )

    def _common_end(self) -> list[int]:
        """The tokens behind any passage: what two different passages' prompts end with."""
        first, second = self._ids(
            [self._before + "0" + self._between + text + self._behind for text in ("0", "1 2 3")]
        )
        count = 0
        while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
            count += 1
        return first[len(first) - count :]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]


def _parts(model: ResolvedModel, tokenizer: Any, task: str | None) -> tuple[str, str, str]:
    """What stands before the query, between query and passage, and behind the passage."""
    found = read_folder(model.path)
    if task is None:
        task = found.prompts.get(found.default_prompt or "")
    settings = chat_settings(found.root) or {"format": "flat", "options": {}}
    messages = [("system", task)] if task else []
    messages += [("query", _QUERY), ("document", _PASSAGE)]
    rendered = _render(tokenizer, messages, settings)
    before, mark, rest = rendered.partition(_QUERY)
    between, other, behind = rest.partition(_PASSAGE)
    if mark and other and _QUERY not in rest and _PASSAGE not in before + behind:
        return before, between, behind
    if found.architecture.startswith("Qwen3For") and answer_tokens(found.root) is None:
        return _QWEN3[0].format(task=task or QWEN3_TASK), _QWEN3[1], _QWEN3[2]
    raise InvalidInput(
        f"the chat template of {model.spec.name} was expected to render the roles 'query' and "
        "'document', each once, and does not",
        fix="Put a chat_template.jinja that does into its folder, such as Qwen3-Reranker's.",
    )


def _render(tokenizer: Any, messages: list[tuple[str, str]], settings: dict[str, Any]) -> str:
    structured = settings["format"] == "structured"
    chat = [
        {"role": role, "content": [{"type": "text", "text": text}] if structured else text}
        for role, text in messages
    ]
    if not tokenizer.chat_template:
        return ""
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, **settings["options"]))
    except Exception:  # noqa: BLE001 - a template may raise what it likes of roles it does not know
        return ""


def _answer(model: ResolvedModel, tokenizer: Any) -> AnswerTokens:
    if model.spec.score_head == "chat-classification":
        return AnswerTokens(0)  # its head has one output, and no word is looked for
    declared = answer_tokens(model.path)
    if declared is not None:
        return declared
    ids = [tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]
    if any(one is None or one == tokenizer.unk_token_id for one in ids):
        raise ModelFault(
            f"the vocabulary of {model.spec.name} has no single token for 'yes' or for 'no'",
            fix="Give a reranker that answers with them, or one with a LogitScore module.",
        )
    return AnswerTokens(int(ids[0]), int(ids[1]))
