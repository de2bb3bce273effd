"""The configuration changes what it names, keeps the rest, and says where it is wrong."""

from pathlib import Path

import pytest

from loadtest.config import USUAL, BadConfig, load


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_the_shipped_file_is_whole() -> None:
    config = load()
    assert (config.users.guide, config.viewer.wait) == (1, (2.0, 8.0))
    assert load(USUAL) == config


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    config = load(written(tmp_path, "[viewer]\ncomment = 9\nwait = [1, 2]\n[swarm]\nlike_every = 0\n"))
    usual = load()
    assert (config.viewer.comment, config.viewer.wait, config.swarm.like_every) == (9, (1, 2), 0)
    assert (config.viewer.like, config.guide, config.swarm.tap_every) == (
        usual.viewer.like, usual.guide, usual.swarm.tap_every,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[viewer]\n\ncoment = 3\n", 3, r"\[viewer\] coment is not known; there are comment, like"),
        ("[viewer]\nlike = 1\n[guide]\npin = 'often'\n", 4, r"\[guide\] pin must be a number, 0 or more, not 'often'"),
        ("[viewer]\ncomment = -1\n", 2, "0 or more, not -1"),
        ("[viewer]\nlike = true\n", 2, "must be a number"),
        ("[viewer]\nlike = nan\n", 2, "must be a number"),
        ("[viewer]\nlocated = 7\n", 2, "is a share, 0 to 1, not 7"),
        ("[viewer]\nwait = 3\n", 2, "must be two numbers"),
        ("[viewer]\nwait = [5, 2]\n", 2, "begin with the shorter"),
        ("[users]\nguide = 1.5\n", 2, "must be a whole number"),
        ("[swarm]\njoins_per_second = 0\n", 2, "must be more than 0"),
        ("# mine\n[viewers]\nlike = 1\n", 2, r"\[viewers\] is not one of \[users\], \[viewer\]"),
        ("[viewer]\nlike =\n", 2, "line 2"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_reason(tmp_path: Path, text: str, line: int, reason: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadConfig, match=reason) as refused:
        load(path)
    assert str(path) in str(refused.value)
    assert f"line {line}" in str(refused.value)


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot be read"):
        load(tmp_path / "none.toml")
