"""The time left of long work."""

from edgeprune.base import progress


def test_the_whole_takes_no_less_than_its_part(monkeypatch):
    """By a clock that is set by hand: 100 seconds were expected, and 30 of them have passed."""
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.within(100.0):
        now += 30.0
        assert progress.all_told(None).startswith("70 s left in all, ")
        assert progress.all_told(20.0).startswith("70 s left in all, ")
        assert progress.all_told(90.0).startswith("90 s left in all, ")
        with progress.within(5.0):  # a part of it
            assert progress.all_told(1.0).startswith("70 s left in all, ")
    assert "left in all" not in progress.all_told(1.0)
    with progress.within(None):
        assert "left in all" not in progress.all_told(1.0)
    assert progress.all_told(None).endswith("B")
