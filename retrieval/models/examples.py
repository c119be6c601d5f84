"""Few-shot examples before a query, as bge-en-icl reads them.

An example is a whole query with its answer behind it, `<instruct>…⏎<query>…⏎<response>…`; examples
are parted, and ended, by an empty line, as FlagEmbedding's `FlagICLModel` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from retrieval.errors import InvalidInput

QueryExamples: TypeAlias = str | Sequence[Mapping[str, str]]
"""The text before the instruction verbatim, or examples as `examples_for_task` of FlagEmbedding:
mappings with `query`, `response` and, for another task than the queries' own, `instruct`."""

_KEYS = {"instruct", "query", "response"}


def examples_text(examples: QueryExamples, instruction: str, suffix: str, model: str) -> str:
    """What goes before the instruction of each query.

    Args:
        examples: a text, or examples in order.
        instruction, suffix: what stands before and behind a query.
        model: its name, for messages.

    Raises:
        InvalidInput: the model takes no examples, or one of them is none.
    """
    if isinstance(examples, str):
        return examples
    if isinstance(examples, Mapping) or not all(isinstance(one, Mapping) for one in examples):
        raise _no_example(examples)
    if examples and not suffix:
        raise InvalidInput(
            f"query_examples were given for {model}, whose queries have no end after which an "
            "answer could stand",
            fix="Leave them out, or choose BAAI/bge-en-icl; a model made from it takes "
            "query_suffix='\\n<response>', too.",
        )
    parts = []
    for example in examples:
        texts = [example.get(key, "") for key in ("query", "response")]
        own = example.get("instruct")
        if not all(isinstance(text, str) for text in [*texts, own or ""]) or set(example) - _KEYS:
            raise _no_example(example)
        if not all(texts):
            raise _no_example(example)
        before = instruction if own is None else f"<instruct>{own}\n<query>"
        parts.append(f"{before}{texts[0]}{suffix}{texts[1]}\n\n")
    return "".join(parts)


def read_examples(file: str) -> list[dict[str, str]]:
    """Examples from a file: a JSON array of objects, or such an object a line.

    Raises:
        InvalidInput: it cannot be read, or holds something else.
    """
    try:
        text = Path(file).expanduser().read_text("utf-8")
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"the examples in {file!r} cannot be read ({error})",
            fix='Give a JSON file such as [{"query": "…", "response": "…"}].',
        ) from error
    parsed = [parsed] if isinstance(parsed, dict) else parsed
    if not isinstance(parsed, list) or not all(isinstance(one, dict) for one in parsed):
        raise _no_example(parsed)
    return parsed


def _no_example(given: object) -> InvalidInput:
    return InvalidInput(
        f"{str(given)[:120]!r} was given as an example, expected a mapping with 'query' and "
        "'response', and with 'instruct' where its task is another",
        fix="Write, for example, {'query': 'what is a virtual interface', 'response': 'a virtual "
        "interface is …'}.",
    )
