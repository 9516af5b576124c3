"""Chats of several turns: what is read anew, what is remembered, and the terminal."""

import io
import itertools
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from onnx_models import chatting_folder, classifier_folder, decoder_folder, write_json

from edgeprune import runtime
from edgeprune.base import interrupt
from edgeprune.base.errors import UserError
from edgeprune.cli import main
from edgeprune.runtime.conversation import Conversation
from edgeprune.runtime.sampling import Sampling

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
FEW = Sampling(max_tokens=4)


def chat_folder(folder: Path, template: str = TEMPLATE, **config: object) -> Path:
    return chatting_folder(folder, template, **{"max_position_embeddings": 200, **config})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return chat_folder(tmp_path_factory.mktemp("chat"))


def test_a_second_turn_reads_only_what_is_new_and_says_the_same(folder) -> None:
    model = runtime.load(folder, 1)
    chat = Conversation(model, system="the mat")
    first = "".join(chat.say("cat sat", FEW))
    assert chat.kept == 0
    second = "".join(chat.say("dog ran", FEW))
    # All but the last word of the answer, which was chosen and never read.
    assert chat.kept == 4 + 3
    messages = [
        {"role": "system", "content": "the mat"},
        {"role": "user", "content": "cat sat"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "dog ran"},
    ]
    assert second == "".join(model.chat(messages, FEW))
    assert chat.messages == [*messages, {"role": "assistant", "content": second}]
    chat.reset()
    assert chat.messages == messages[:1]
    assert "".join(chat.say("cat sat", FEW)) == first


def test_a_template_that_rewrites_turns_is_followed(tmp_path) -> None:
    short = "{{ messages[0].content }} on {{ messages[-1].content }} "
    model = runtime.load(chat_folder(tmp_path, short), 1)
    chat = Conversation(model)
    list(chat.say("cat sat", FEW))
    second = "".join(chat.say("dog ran", FEW))
    assert chat.kept == 3
    rewritten = model.complete("cat sat on dog ran", FEW)
    assert second == "".join(rewritten)


def test_the_oldest_rounds_are_forgotten_within_a_budget(folder) -> None:
    model, budget = runtime.load(folder, 1), 40
    chat = Conversation(model, "the mat", budget)
    forgot = []
    for number in range(20):
        before, gone = list(chat.messages), chat.forgotten
        text = " ".join(["cat", "sat", "dog"][: 1 + number % 3])
        said = "".join(chat.say(text, FEW))
        *earlier, asked, answered = chat.messages
        prompt = model.chat_ids([*earlier, asked])
        assert len(prompt) + 4 <= budget
        # The same as of a chat that never had more.
        assert said == answered["content"] == "".join(model.chat([*earlier, asked], FEW))
        assert earlier[0] == {"role": "system", "content": "the mat"}
        count = chat.forgotten - gone
        assert earlier[1:] == before[1 + count :]
        assert count % 2 == 0
        if count:
            forgot.append(number)
            assert len(prompt) + 4 <= budget // 2
            one_more = [before[0], *before[count - 1 :], asked]
            assert len(model.chat_ids(one_more)) + 4 > budget // 2
    # More is forgotten at once than a turn brings, so that most turns read only what is new.
    assert len(forgot) > 1
    assert min(b - a for a, b in itertools.pairwise(forgot)) > 1
    kept = list(chat.messages)
    with pytest.raises(UserError, match="the budget is 40"):
        list(chat.say("cat " * 50, FEW))
    assert chat.messages == kept


def test_an_answer_that_is_stopped_is_kept_and_a_turn_that_fails_is_not(folder) -> None:
    chat = Conversation(runtime.load(folder, 1))
    pieces = chat.say("cat sat", Sampling(max_tokens=50))
    first = next(pieces)
    pieces.close()
    assert chat.messages[-1] == {"role": "assistant", "content": first}
    before = list(chat.messages)
    with pytest.raises(UserError, match="the model takes 200"):
        list(chat.say("cat " * 300))
    assert chat.messages == before
    assert "".join(chat.say("dog", FEW))


def test_the_models_own_sampling_is_used(tmp_path) -> None:
    chat_folder(tmp_path)
    own = {"do_sample": True, "temperature": 9.0, "top_k": 5}
    write_json(tmp_path / "generation_config.json", own)
    model = runtime.load(tmp_path, 1)
    asked = [{"role": "user", "content": "cat sat"}]
    many = Sampling(max_tokens=30)
    sampled = "".join(model.chat(asked, many))
    whole = Sampling(max_tokens=30, temperature=9.0, top_k=5)
    assert sampled == "".join(model.complete("cat sat", whole))
    greedy = "".join(model.chat(asked, Sampling(max_tokens=30, temperature=0.0)))
    assert greedy == "".join(model.complete("cat sat", many)) != sampled


def run_chat(folder: Path, lines: str, *options: str):
    return CliRunner().invoke(
        main, ["chat", str(folder), "--threads", "1", "--max-tokens", "4", *options], input=lines
    )


def test_the_terminal_answers_line_by_line(folder) -> None:
    chat = Conversation(runtime.load(folder, 1))
    expected = ["".join(chat.say(text, FEW)) for text in ("cat sat", "dog ran")]
    chat.reset()
    expected.append("".join(chat.say("dog ran", FEW)))
    found = run_chat(folder, "cat sat\n\ndog ran\n/reset\ndog ran\n/exit\nthe\n")
    assert found.exit_code == 0, found.stderr
    assert found.stdout.splitlines() == expected
    bounded = run_chat(folder, "cat sat\ndog ran\n", "--context-budget", "8")
    assert bounded.stdout.splitlines() == [expected[0], expected[2]]
    assert "the 2 oldest messages were forgotten" in " ".join(bounded.stderr.split())
    long = run_chat(folder, f"{'cat ' * 300}\ndog ran\n")
    assert long.stdout.splitlines() == ["", expected[2]]
    assert "the model takes 200" in " ".join(long.stderr.split())


def test_a_bundle_that_cannot_chat_says_what_to_do(tmp_path) -> None:
    found = run_chat(decoder_folder(tmp_path / "d"), "cat\n")
    assert found.exit_code == 2
    assert "edgeprune run --raw" in found.stderr
    found = run_chat(classifier_folder(tmp_path / "c"), "cat\n")
    assert "does text-classification: use `edgeprune run`" in found.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a signal to itself")
def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(tmp_path, monkeypatch) -> None:
    from edgeprune.runtime import dialogue

    # A text of seconds, so that the signal meets it.
    folder = chat_folder(tmp_path, max_position_embeddings=100_000, eos_token_id=99)
    monkeypatch.setattr(sys, "stdin", io.StringIO("cat sat\n/reset\n"))
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    before = signal.signal(signal.SIGINT, interrupt._press)
    began = threading.Event()
    write = out.write

    def noting(text: str) -> int:
        written = write(text)
        if text.strip():  # input() writes its empty prompt, too
            began.set()
        return written

    monkeypatch.setattr(out, "write", noting)
    press = threading.Thread(target=lambda: (began.wait(30), os.kill(os.getpid(), signal.SIGINT)))
    press.start()
    try:
        dialogue.chat(folder, Sampling(max_tokens=90_000), threads=1)
    finally:
        press.join()
        signal.signal(signal.SIGINT, before)
    assert 0 < len(out.getvalue().split()) < 90_000
    assert interrupt.pressed == []
