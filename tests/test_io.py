"""Files and folders are whole or absent."""

import pytest

from pgn_vln.io import new_folder, strict_json, write_text_atomic


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a" / "out") as folder:
        (folder / "half").write_text("x")
        assert not (tmp_path / "a" / "out").exists()
        raise RuntimeError
    assert list((tmp_path / "a").iterdir()) == []
    with new_folder(tmp_path / "a" / "out") as folder:
        (folder / "whole").write_text("x")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "whole").read_text() == "x"


def test_an_empty_folder_may_be_filled_and_a_full_one_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "file").write_text("x")
    with pytest.raises(FileExistsError, match="exists already"), new_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty" / "file").exists()


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_text_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]
    with pytest.raises(ValueError, match="JSON compliant"):
        strict_json({"x": float("nan")})
