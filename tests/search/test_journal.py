"""The journal of a search: each decision once, whenever the process ends."""

import contextlib

from edgeprune.search.journal import Journal


def test_an_entry_is_made_once_and_read_by_the_next_session(tmp_path):
    file, calls = tmp_path / "journal.json", []

    def make():
        calls.append(1)
        return (1, 2)

    first = Journal(file)
    assert first.once("a", make, list, tuple) == (1, 2)
    assert first.once("a", make, list, tuple) == (1, 2)
    assert Journal(file).once("a", make, list, tuple) == (1, 2)
    assert len(calls) == 1
    assert "a" in Journal(file)
    assert "b" not in first


def test_the_time_of_earlier_sessions_counts(tmp_path):
    file, now = tmp_path / "journal.json", [50.0]
    first = Journal(file, lambda: now[0])
    now[0] += 100

    def make():
        now[0] += 7
        return 1

    first.once("a", make)
    now[0] = 3.0  # another session's clock
    second = Journal(file, lambda: now[0])
    now[0] += 5
    assert second.seconds == 112
    assert second.took("a") == 7


def test_nothing_is_no_entry(tmp_path):
    file = tmp_path / "journal.json"
    assert Journal(file).once_there("a", lambda: None) is None
    assert Journal(file).once_there("a", lambda: 2) == 2
    assert Journal(file).once_there("a", lambda: None) == 2


def test_a_failure_leaves_no_entry(tmp_path):
    journal = Journal(tmp_path / "journal.json")

    def fail():
        raise RuntimeError

    with contextlib.suppress(RuntimeError):
        journal.once("a", fail)
    assert "a" not in journal
    assert "a" not in Journal(journal.file)
