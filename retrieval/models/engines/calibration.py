"""The texts that show a model's activations to the int8 quantiser, and their token batches.

Static quantisation looks at what values flow through a model on typical texts and fixes the scales
of its int8 numbers by them. The built-in texts are English from the interpreter's own docstrings,
short and long, and sentences in eight languages written for this purpose. They suit a model of
general text; texts like those that will be read suit it better.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from retrieval.errors import InvalidInput
from retrieval.models.engines.base import Head, TokenBatch

LEAST = 8
"""Fewer texts than this say too little of a model's activations."""

MOST = 300
"""If there are more texts, this many, evenly spread, are read; more would not change the scales."""

MAX_LENGTH = 256
"""Tokens of a text that are read."""

_BUILT_IN_VERSION = 2
"""To be counted up when the built-in texts change: it names them in the key of a kept graph."""
_DOCSTRINGS = 100
_SHORTEST_DOCSTRING = 5  # words
_MODULES = (
    *("argparse", "asyncio", "collections", "csv", "datetime", "decimal", "difflib", "fractions"),
    *("functools", "heapq", "inspect", "json", "logging", "pathlib", "random", "re", "shutil"),
    *("statistics", "string", "subprocess", "tempfile", "textwrap", "threading", "typing"),
    *("unittest", "zipfile"),
)

_SHORT_TEXTS = ("dog", "one two", "yes", "no", "why?", "Paris", "the end", "42")
"""Read with whatever calibrates: nearly empty texts have activations that longer ones never have,
and without these their vectors were off by a cosine of up to 0.1."""

_OWN_TEXTS = (
    # English
    "how long does a passport renewal take",
    "side effects of ibuprofen",
    "Which river flows through Budapest?",
    "The committee postponed its decision until the spring, when the audit will be complete.",
    "Invoice 2023-118: 40 boxes of A4 paper at $3.20 each, delivered on 12 March, net 30 days.",
    "Patients who received the higher dose slept longer, but the difference between the groups "
    "disappeared within six weeks, and two of them left the study because of headaches. The "
    "authors conclude that the lower dose is sufficient for most adults and that further trials "
    "should include people over seventy, who were not admitted to this one.",
    "Granite forms when magma cools slowly deep below the surface. Its crystals are large enough "
    "to be seen with the naked eye: grey quartz, pink or white feldspar and dark mica. Because it "
    "is hard and weathers slowly, it has been used for bridges, kerbs and monuments since "
    "antiquity.",
    "Cut the onions finely and let them soften in butter over a low heat. Add the rice, stir until "
    "it is coated, then pour in the hot broth a ladle at a time. After eighteen minutes the grains "
    "should be tender with a firm core; take the pan off the stove and fold in the cheese.",
    "The tenant shall return the premises in the condition in which they were received, fair wear "
    "and tear excepted. Any deposit is to be repaid within thirty days, less the documented cost "
    "of repairs.",
    "Shares of the airline fell 4.1% after it cut its forecast for the third time this year.",
    # German
    "Öffnungszeiten der Stadtbücherei",
    "Der Zug nach Leipzig fährt heute wegen Bauarbeiten erst um 14:35 Uhr ab.",
    "Die Wärmepumpe entzieht der Außenluft Energie und hebt sie mit Strom auf die Temperatur, die "
    "für die Heizung gebraucht wird. Je kleiner der Unterschied zwischen beiden Temperaturen ist, "
    "desto sparsamer arbeitet sie.",
    "Gegen diesen Bescheid kann innerhalb eines Monats Widerspruch eingelegt werden.",
    # French
    "meilleure période pour planter des tomates",
    "Le musée est fermé le mardi, sauf pendant les vacances scolaires.",
    "La photosynthèse permet aux plantes de transformer l'énergie lumineuse en énergie chimique : "
    "à partir d'eau et de dioxyde de carbone, elles produisent des sucres et rejettent de "
    "l'oxygène.",
    "L'abonné peut résilier son contrat à tout moment, par courrier ou depuis son espace client.",
    # Spanish
    "requisitos para abrir una cuenta bancaria",
    "El volcán entró en erupción de madrugada y obligó a evacuar tres pueblos de la ladera.",
    "El aceite de oliva virgen extra se obtiene únicamente por medios mecánicos. Su sabor depende "
    "de la variedad de la aceituna, del momento de la cosecha y del tiempo que pasa hasta la "
    "molienda.",
    "¿Cuántos jugadores tiene un equipo de balonmano?",
    # Russian
    "как восстановить забытый пароль",
    "Озеро Байкал содержит около пятой части мировых запасов пресной воды.",
    "Чтобы испечь ржаной хлеб, сначала готовят закваску из муки и воды. Через несколько дней она "
    "начинает пузыриться, и тогда её смешивают с остальной мукой, солью и тмином.",
    "Заявление рассматривается в течение десяти рабочих дней.",
    # Arabic
    "أعراض نقص فيتامين د",
    "تقع المدينة القديمة على ضفة النهر ويحيط بها سور من الحجر.",
    "تتحرك الكواكب حول الشمس في مدارات بيضوية، وكلما ابتعد الكوكب عن الشمس طالت سنته وانخفضت درجة "
    "حرارته.",
    "يجب تقديم الطلب قبل نهاية الشهر مع نسخة من بطاقة الهوية.",
    # Chinese
    "怎样给汽车更换备胎",
    "这座图书馆每天上午九点开门，星期一闭馆。",
    "茶树喜欢温暖湿润的气候，多生长在多雾的山坡上。春天采摘的嫩芽经过杀青、揉捻和干燥，就成了绿茶；"
    "如果让叶子充分发酵，得到的便是红茶。",
    "合同自双方签字之日起生效，有效期为三年。",
    # Japanese
    "東京から京都までの所要時間",
    "この薬は食後に一日三回、水と一緒に飲んでください。",
    "台風は暖かい海の上で発達し、北へ進むにつれて勢力を弱める。海水の温度が高いほど多くの水蒸気が"
    "供給され、風と雨が強くなる。",
    "会議の資料は前日までに参加者全員へ送られる。",
)


def check_calibration(texts: Sequence[str] | None) -> None:
    """Refuse what cannot calibrate.

    Raises:
        InvalidInput: not a sequence of at least `LEAST` texts.
    """
    from retrieval._validate import check_texts

    if texts is None:
        return
    check_texts(texts, "calibration text")
    filled = sum(1 for text in texts if text.strip())
    if filled < LEAST:
        raise InvalidInput(
            f"{filled} calibration texts that are not empty were given, expected at least {LEAST}",
            fix="Give 100 to 300 passages like those to be read, or leave calibration out.",
        )


def calibration_key(texts: Sequence[str] | None) -> str:
    """What names these texts in the key of a kept graph. The built-in ones need not be made."""
    if texts is None:
        return f"built-in {_BUILT_IN_VERSION}"
    written = json.dumps([_BUILT_IN_VERSION, *_chosen(texts)]).encode()
    return hashlib.sha256(written).hexdigest()


def built_in_texts() -> list[str]:
    """The texts that calibrate if none are given, in an order that is always the same.

    An interpreter that strips docstrings (`python -OO`) leaves only the others.
    """
    found = sorted(set(_docstrings()))
    return [*_spread(found, _DOCSTRINGS), *_OWN_TEXTS]


def calibration_batches(path: Path, head: Head, texts: Sequence[str] | None) -> list[TokenBatch]:
    """One batch per text, without padding, whose values would widen the scales.

    For `logits`, pairs: each text is the passage of two queries, the beginning of its own and that
    of another text.

    Args:
        path: the model folder, for its tokeniser.
        head: the model's head.
        texts: checked texts; None for the built-in ones.

    Raises:
        ModelNotFound: the folder has no tokeniser.
    """
    from retrieval.models.model_folder import read_folder
    from retrieval.models.tokenization.tokenizer import Tokenizer

    limit = read_folder(path).position_limit
    tokenizer = Tokenizer(path, MAX_LENGTH if limit is None else min(MAX_LENGTH, limit))
    chosen = _chosen(built_in_texts() if texts is None else texts)
    if head == "logits":
        tokenized = tokenizer.encode_pairs(_pairs(chosen))
    else:
        tokenized = tokenizer.encode([*_SHORT_TEXTS, *chosen])
    return [tokenizer.pad(np.asarray([row]), tokenized) for row in range(len(tokenized))]


def _chosen(texts: Sequence[str]) -> list[str]:
    return _spread([text for text in texts if text.strip()], MOST)


def _spread(texts: list[str], most: int) -> list[str]:
    """At most `most` of the texts, evenly spread over them."""
    if len(texts) <= most:
        return texts
    return [texts[index * len(texts) // most] for index in range(most)]


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    queries = [_beginning(text) for text in texts]
    own = list(zip(queries, texts, strict=True))
    shift = len(texts) // 2
    others = list(zip(queries[shift:] + queries[:shift], texts, strict=True))
    # Every second of each kind: as many pairs as texts.
    return own[::2] + others[1::2]


def _beginning(text: str) -> str:
    """A text's first words, as a query; of a script without spaces, its first characters."""
    words = text.split()[:8]
    return " ".join(words)[:80]


def _docstrings() -> Iterator[str]:
    for name in _MODULES:
        module = importlib.import_module(name)
        for public in sorted(getattr(module, "__all__", ())):
            value = getattr(module, public, None)
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            members = (
                [vars(value)[key] for key in sorted(vars(value))] if inspect.isclass(value) else []
            )
            for member in (value, *members):
                text = getattr(member, "__doc__", None)
                if isinstance(text, str) and len(text.split()) >= _SHORTEST_DOCSTRING:
                    yield inspect.cleandoc(text)
