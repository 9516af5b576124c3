"""Sentences and words: every script, lower case, what is left out and why."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.text.sentences import count_words, fragment, split_sentences

WORDS = ["the", "cat", "ran", "Zürich", "№", "(far)", "i.e.", "naïve"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=3, max_size=40).map(" ".join)


def sentences(*documents: str, language: str | None = None) -> list[str]:
    return split_sentences(documents, language).texts


def test_sentences_are_split_once_and_neither_short_nor_endless():
    document = (
        'The cat sat. "Did it run?" He asked. The U.S. economy grew 1.5 percent.\n'
        "Too short.\n\nThe cat sat. Another line without an end\n" + "word " * 81
    )
    found = split_sentences([document, "The cat sat.", "No.", "Mr. Smith met Dr. Jones."])
    assert found.texts == [
        "The cat sat.",
        '"Did it run?"',
        "The U.S. economy grew 1.5 percent.",
        "Another line without an end",
        "Mr. Smith met Dr. Jones.",
    ]
    assert (found.short, found.long, found.repeated, found.without) == (3, 1, 2, 2)
    assert found.left_out == {
        "sentences shorter than 3 words": 3,
        "sentences longer than 80 words": 1,
        "sentences that came before": 2,
        "documents without a sentence of their own": 2,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "the cat sat down. did the dog run? nobody knows that!",
            ["the cat sat down.", "did the dog run?", "nobody knows that!"],
        ),
        (
            "北京是中国的首都。你去过天安门吗?我明年想再去一次！",
            ["北京是中国的首都。", "你去过天安门吗?", "我明年想再去一次！"],
        ),
        (
            "今日はとても天気がいいです。一緒に公園へ行きませんか？",
            ["今日はとても天気がいいです。", "一緒に公園へ行きませんか？"],
        ),
        (
            "ประเทศไทยมีประชากรมาก กรุงเทพเป็นเมืองหลวงของไทย ปี 2550 มีน้ำท่วมใหญ่",
            ["ประเทศไทยมีประชากรมาก", "กรุงเทพเป็นเมืองหลวงของไทย", "ปี 2550 มีน้ำท่วมใหญ่"],
        ),
        (
            "Кошка сидела на полу. Она родилась в 1999 г. в Москве и т. д. Собака убежала далеко!",
            [
                "Кошка сидела на полу.",
                "Она родилась в 1999 г. в Москве и т. д. Собака убежала далеко!",
            ],
        ),
        (
            "кошка сидела на полу. собака убежала очень далеко.",
            ["кошка сидела на полу.", "собака убежала очень далеко."],
        ),
        (
            "ذهب الولد إلى المدرسة. هل عاد إلى البيت؟ نعم، عاد في المساء.",
            ["ذهب الولد إلى المدرسة.", "هل عاد إلى البيت؟", "نعم، عاد في المساء."],
        ),
        (
            "वह कल घर गया था। फिर वह सो गया।",
            ["वह कल घर गया था।", "फिर वह सो गया।"],
        ),
        (
            "ខ្ញុំស្រលាញ់ប្រទេសកម្ពុជា។ អ្នកក៏ស្រលាញ់ដែរ។",
            ["ខ្ញុំស្រលាញ់ប្រទេសកម្ពុជា។", "អ្នកក៏ស្រលាញ់ដែរ។"],
        ),
        (
            "그는 어제 학교에 갔다. 오늘은 집에 있다.",
            ["그는 어제 학교에 갔다.", "오늘은 집에 있다."],
        ),
    ],
    ids=[
        *("English", "Chinese", "Japanese", "Thai", "Russian"),
        *("lower-case Russian", "Arabic", "Hindi", "Khmer", "Korean"),
    ],
)
def test_every_script_has_sentences(text, expected):
    assert sentences(text) == expected


@pytest.mark.parametrize(
    "sentence",
    ["第{}只猫坐在很大的垫子上。", "“第{}只猫坐在很大的垫子上！”", "the cat number {} sat down. "],
)
def test_a_book_on_one_line_loses_no_sentence(sentence):
    every = [sentence.format(number) for number in range(2000)]
    assert sentences("".join(every)) == [each.strip() for each in every]


def test_a_language_knows_its_abbreviations():
    text = "Die Bahn wurde am 3. August eröffnet. Sie fährt heute noch."
    assert sentences(text, language="de") == [
        "Die Bahn wurde am 3. August eröffnet.",
        "Sie fährt heute noch.",
    ]
    assert sentences(text) == ["Die Bahn wurde am 3.", "Sie fährt heute noch."]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the cat - it sat", 5),
        ("Zürich ist groß", 3),
        ("北京", 1),
        ("我爱北京。", 2),
        ("我爱“北京”天安门。", 4),
        ("今日は天気がいい。", 4),
        ("ประเทศไทยมีประชากรมาก", 4),
        ("iPhone 是手机", 3),
        ("", 0),
    ],
)
def test_words_are_parted_by_blanks_or_counted_by_letters(text, words):
    assert count_words(text) == words


@given(text=SENTENCES, seed=st.integers(0, 1000))
@settings(max_examples=100)
def test_a_fragment_is_3_to_14_words_that_stand_together(text, seed):
    words = fragment(text, np.random.default_rng(seed)).split()
    assert 3 <= len(words) <= 14
    assert f" {' '.join(words)} " in f" {text} "


LETTERS = st.text(st.sampled_from("我爱北京天の本。，ประเทศกคง่้ abc."), max_size=60)


@given(text=LETTERS, seed=st.integers(0, 1000))
def test_a_fragment_of_any_script_is_3_to_14_words_of_it(text, seed):
    if count_words(text) >= 3:
        part = fragment(text, np.random.default_rng(seed))
        assert part in text
        assert 3 <= count_words(part) <= 14


@given(st.lists(LETTERS, max_size=8))
def test_what_is_left_out_is_all_that_is_not_there(documents):
    found = split_sentences(documents)
    assert len(set(found.texts)) == len(found.texts)
    assert all(3 <= count_words(text) <= 80 for text in found.texts)
    assert found.without <= len(documents)
    assert split_sentences([*documents, *found.texts]).texts == found.texts


@pytest.mark.parametrize("language", ["ar", "de", "es", "ru", "zh"])
def test_the_same_paragraphs_have_about_as_many_sentences_in_every_language(language):
    if "EDGEPRUNE_DATA" not in os.environ:
        pytest.skip("needs EDGEPRUNE_DATA")
    folder = Path(os.environ["EDGEPRUNE_DATA"]) / "multilingual"

    def found(name: str) -> int:
        lines = (folder / f"xquad.{name}.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"] for line in lines]
        split = split_sentences(texts, name)
        assert split.without <= 0.02 * len(texts)
        return len(split.texts)

    assert found(language) == pytest.approx(found("en"), rel=0.12)
