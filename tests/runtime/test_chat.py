"""Chat templates: what transformers makes of them, whatever a user writes, and within limits."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from hostile_templates import HOSTILE, growing, nested
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import decoder_folder, write_json
from processes import wait_for_end

from edgeprune import runtime
from edgeprune.base.errors import UserError
from edgeprune.runtime.bundle import Bundle
from edgeprune.runtime.chat import apply_chat_template
from edgeprune.text import template_process, template_worker
from edgeprune.text.chat_template import MAX_TEMPLATE_CHARACTERS
from edgeprune.text.template_process import SHARED, TemplateFailure, TemplateProcess

TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in (Path(__file__).parent / "chat_templates").glob("*.jinja")
}
# What looks like a format, a template or an escape, and is what somebody wrote.
ODD = [
    "class A{void f(){}}",
    '{"id":1234567}',
    "{{ x }}",
    "a%2F20240101",
    r"\frac{1000000}{3}",
    "%99999999d",
    "{:99999999}",
    "{:{}}",
    "%*d",
    "{0.__class__.__mro__}",
    "{% for i in range(99999) %}{{ i }}{% endfor %}",
    "{# no comment #}",
    "{%- raw %}",
    "<|end|><|over|>[/ASK]</s>",
    "<thought>\nno\n</thought>yes</thought>",
    "<b>&amp;\u2028\x00\x1b[31m\r\n\t\\n\ud83d\U0001f600",
    "123456789 ** 123456789",
    "x" * 200_000,
    "",
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Wetter <heute> & morgen: é",
            "parameters": {"type": "object", "properties": {"b": {"x": [1, 2.5]}, "a": None}},
        },
    }
]
CALLED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How is the weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "weather", "arguments": {"z": 1, "place": "Köln"}}}],
    },
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "<thought>\nIt rains.\n</thought>\n\nIt rains."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "thought": "How nice.", "content": "\nYou are welcome."},
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle and transformers' tokenizer of the same folder."""
    transformers = pytest.importorskip("transformers")
    folder = decoder_folder(tmp_path_factory.mktemp("chat"))
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        additional_special_tokens=["<a>", "<b>"],
        extra_special_tokens={"image_token": "<image>"},
    )
    made.save_pretrained(folder)
    return Bundle.open(folder), transformers.AutoTokenizer.from_pretrained(folder)


def same(pair: Any, template: str, messages: list[dict[str, Any]]) -> str:
    """The prompt, which must be what transformers makes."""
    bundle, theirs = pair
    bundle.tokenizer_config["chat_template"] = theirs.chat_template = template

    def expected() -> str:
        return theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    before, found, after = expected(), apply_chat_template(bundle, messages), expected()
    assert found in (before, after)  # templates may tell the date
    return found


def chats(count: int) -> list[list[dict[str, str]]]:
    """Ordinary chats, of one question or of two with an answer between them."""
    if "EDGEPRUNE_DATA" not in os.environ:
        pytest.skip("needs EDGEPRUNE_DATA")
    folder = Path(os.environ["EDGEPRUNE_DATA"]) / "chat"
    found = []
    for file in (folder / "mt_bench.jsonl", folder / "vicuna_bench.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines()[: count // 2]:
            turns = json.loads(line)["turns"]
            chat = [{"role": "user", "content": turns[0]}]
            for turn in turns[1:]:
                chat.append({"role": "assistant", "content": f"As to {turns[0]!r}:\n 1. No.\n"})
                chat.append({"role": "user", "content": turn})
            system = [{"role": "system", "content": " You are terse. \n"}]
            found.append(system + chat if len(found) % 3 == 0 else chat)
    assert len(found) == count
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_ordinary_chats_are_what_transformers_makes_of_them(name: str, pair: Any) -> None:
    for chat in chats(60):
        found = same(pair, TEMPLATES[name], chat)
        assert all(message["content"].strip() in found for message in chat)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_looks_like_a_format_is_what_a_user_wrote(name: str, pair: Any) -> None:
    for text in ODD:
        found = same(pair, TEMPLATES[name], [{"role": "user", "content": text}])
        assert text.strip() in found
        same(
            pair,
            TEMPLATES[name],
            [
                {"role": "system", "content": text},
                {"role": "user", "content": text},
                {"role": "assistant", "content": text},
                {"role": "user", "content": f" {text}\n"},
            ],
        )


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(TEMPLATES)),
    st.lists(st.text(st.characters()) | st.from_regex(r"[%{}\d*:.]+"), min_size=1, max_size=5),
)
def test_any_text_passes(pair: Any, name: str, texts: list[str]) -> None:
    roles = ("user", "assistant")
    chat = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    same(pair, TEMPLATES[name], chat)
    assert same(pair, "{{ messages[-1].content }}", chat) == texts[-1]


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"inst"}))
def test_tools_are_what_transformers_makes_of_them(name: str) -> None:
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    options = {"bos_token": "<s>", "tools_inside": False, "today": "1.1.2024", "thinking": False}
    variables = {"messages": CALLED, "tools": TOOLS, "add_generation_prompt": True, **options}
    [expected], _ = utilities.render_jinja_template(
        [CALLED], tools=TOOLS, chat_template=TEMPLATES[name], add_generation_prompt=True, **options
    )
    assert SHARED.render(TEMPLATES[name], variables) == expected
    assert "weather" in expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{{ eos_token }}{{ mask_token }}{{ sep_token }}{{ image_token }}",
        "{{ additional_special_tokens | join(' ') }}",
        "{{ pad_token is defined }}{{ tools is defined }}{{ tools }}{{ documents is none }}",
        "{{ messages[0] | tojson(separators=(',', ':'), sort_keys=True, ensure_ascii=True) }}",
        "{{ messages | tojson(indent=1) }}{{ {'b': 1, 'a': '<é>'} | tojson }}",
        "{{ 1 }}{% generation %}\n{{ 2 }}\n{% endgeneration %}\n3\n\n",
        "{% for m in messages %}{% generation %}{% set x = m.role %}{{ x }}{{ loop.index }}"
        "{%- endgeneration %}{{ x }}{% endfor %}",
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "  {% if true %}\n  a\n  {% endif %}\n\n",
        "{{ strftime_now('%d %b %Y') }}",
        "{{ messages[0].absent }}{{ absent }}{{ '%s {}' % 1 }}{{ '{:>5}'.format(2) }}",
    ],
)
def test_what_transformers_gives_to_templates(template: str, pair: Any) -> None:
    same(pair, template, [{"role": "user", "content": "é\n"}])


def failure(folder: Path, template: str) -> str:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        apply_chat_template(Bundle.open(folder), [{"role": "user", "content": "hi"}])
    return str(caught.value)


def test_a_template_that_refuses_or_fails_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = decoder_folder(tmp_path)
    write_json(folder / "tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"})
    messages = [{"role": "user", "content": "hi"}]
    assert apply_chat_template(Bundle.open(folder), messages) == "hi"
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert apply_chat_template(Bundle.open(folder), messages) == "hi!"
    for template, words in {
        "{{ raise_exception('user\nfirst') }}": "chat template refuses this chat: user first.",
        "{{ 1 + 'a' }}": "chat template fails: unsupported operand",
        "{% if %}": "chat template fails: Expected an expression",
        "{{ x.y.z }}": "chat template fails: 'x' is undefined.",
        "{{ {}[0][0] + 1 }}": "chat template fails: ",
        "{{ raise_exception('no' * 9999) }}": "refuses this chat: nono",
        "x" * 300_000: f"more than {MAX_TEMPLATE_CHARACTERS:,} characters",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}": "writes more than 4,194,304",
    }.items():
        said = failure(folder, template)
        assert words in said
        assert str(folder) in said
        assert said.endswith(".")
        assert len(said) < 600
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not UTF-8"):
        apply_chat_template(Bundle.open(folder), messages)


def test_the_template_named_default_is_for_plain_chat(tmp_path: Path) -> None:
    folder = decoder_folder(tmp_path)
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}, 3]
    write_json(folder / "tokenizer_config.json", {"chat_template": several})
    assert apply_chat_template(Bundle.open(folder), []) == "yes"


def test_a_bundle_without_template_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use --raw"):
        runtime.load(decoder_folder(tmp_path), 1).chat([{"role": "user", "content": "hi"}])


# Limits ----------------------------------------------------------------------------------------

ENDLESS = nested(3, 99_999)


@contextlib.contextmanager
def started(**limits: Any) -> Any:
    process = TemplateProcess(**limits)
    try:
        yield process
    finally:
        process.end()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_template_ends_in_an_error(kind: str) -> None:
    # What takes a second of a processor's time takes a twentieth as well.
    with started(cpu_seconds=0.05) as process:
        for template in HOSTILE[kind]:
            with pytest.raises(TemplateFailure):
                process.render(template, {"messages": [{"role": "user", "content": "hi"}]})
        assert process.render("{{ x }}", {"x": "hi"}) == "hi"


def test_there_are_many_hostile_templates() -> None:
    assert len({template for kind in HOSTILE.values() for template in kind}) >= 110


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of processor time")
def test_time_alone_is_limited() -> None:
    with started(cpu_seconds=0.05, memory_bytes=2**40) as process:
        for template in (ENDLESS, "{{ 9 ** (9 ** 9) }}"):  # in Python, and in one call of C's
            with pytest.raises(TemplateFailure, match=r"was ended: one chat may take 0\.05 s"):
                process.render(template, {})


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_memory_alone_is_limited() -> None:
    with started(cpu_seconds=300, memory_bytes=2**28) as process:
        for template in ("{{ 'x' * 2 ** 29 }}", growing("'x'", "s.x ~ s.x")):
            with pytest.raises(TemplateFailure, match="256 MB of memory"):
                process.render(template, {})
        assert process.render("{{ x | length }}", {"x": "é" * 10**6}) == "1000000"


def test_time_is_limited_where_the_system_cannot_measure_a_processors() -> None:
    code = (
        "import signal; vars(signal).pop('setitimer', None)\n"
        "from edgeprune.text import template_worker\n"
        "template_worker._WAIT_SECONDS = 0.2\n"
        "template_worker.main(300, 2 ** 40)"
    )
    request = json.dumps({"template": "{{ 9 ** (9 ** 9) }}", "variables": {}})
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=f"{request}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr.startswith("Timeout")


def test_a_limit_holds_for_each_chat_and_not_for_all() -> None:
    busy = "{% for i in range(3000) %}{% set x = i | string | list | join %}{% endfor %}ok"
    with started(cpu_seconds=0.2) as process:
        for number in range(60):
            assert process.render(busy + str(number % 7), {}) == f"ok{number % 7}"


# The process -----------------------------------------------------------------------------------


def test_many_threads_get_their_own_answers_from_one_process() -> None:
    def ask(number: int) -> str:
        return SHARED.render("{{ n }}:{{ 'x' * (n * 999) }}", {"n": number})

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(60)))
    assert found == [f"{n}:{'x' * (n * 999)}" for n in range(60)]
    first = SHARED.process
    ask(1)
    assert SHARED.process is first


def test_a_process_that_was_ended_is_started_again() -> None:
    with started() as process:
        assert process.render("a", {}) == "a"
        process.process.kill()
        process.process.wait()
        assert process.render("b", {}) == "b"


def test_one_that_does_not_start_says_how_to_see_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "_MODULE", "edgeprune.absent")
    with started() as process, pytest.raises(UserError, match=r"run `python -m edgeprune\.absent"):
        process.render("a", {})
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with started() as process, pytest.raises(UserError, match="cannot be started: No such file"):
        process.render("a", {})


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer's signal")
def test_an_interrupted_chat_leaves_nothing_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with started(cpu_seconds=300) as process:
            process.render("a", {})
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                process.render(ENDLESS, {})
            assert process.render("b", {}) == "b"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_it_is_told_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("TZ", "UTC+1")
    with started() as process:
        process.render("a", {})
        found = psutil.Process(process.process.pid).environ()
    assert "HF_TOKEN" not in found
    assert found["TZ"] == "UTC+1"


# Renders, says which process did, and once that was looked at does what follows.
RENDERING = """
import os, sys, time
from edgeprune.text.template_process import SHARED
def pid():
    assert SHARED.render("{{ x }}", {"x": "hi"}) == "hi"
    return SHARED.process.pid
print(pid(), flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def rendering(then: str, **options: Any) -> Any:
    command = [sys.executable, "-c", RENDERING + then]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, **options)
    try:
        worker = psutil.Process(int(process.stdout.readline()))
        process.stdin.write("\n")
        process.stdin.close()
        yield process, worker
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("then", ["", "time.sleep(60)", f"SHARED.render({ENDLESS!r}, {{}})"])
def test_it_does_not_outlive_its_parent(then: str) -> None:
    with rendering(then) as (parent, worker):
        if then:
            parent.kill()
        wait_for_end(worker)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs a group of processes")
def test_ctrl_c_is_the_parents_alone() -> None:
    then = """
try:
    print("waiting", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print(pid(), flush=True)
"""
    with rendering(then, start_new_session=True) as (parent, worker):
        assert parent.stdout.readline() == "waiting\n"
        os.killpg(parent.pid, signal.SIGINT)
        assert int(parent.stdout.readline()) == worker.pid


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_its_own() -> None:
    then = """
forked = os.fork()
if not forked:
    for _ in range(9):
        own = pid()
    print(own, flush=True)
    SHARED.end()
    os._exit(0)
for _ in range(9):
    own = pid()
os.waitpid(forked, 0)
print(own, flush=True)
"""
    with rendering(then) as (parent, worker):
        child, own = int(parent.stdout.readline()), int(parent.stdout.readline())
    assert own == worker.pid != child


def test_the_asking_process_needs_no_jinja() -> None:
    code = "import sys, edgeprune.runtime.generate; print('jinja2' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_the_worker_imports_little() -> None:
    code = f"import sys, {template_worker.__name__}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "onnxruntime", "onnx", "tokenizers", "pydantic", "rich"}
    assert not heavy & set(found.stdout.split())
