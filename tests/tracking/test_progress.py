"""`progress.csv` is what SB3 was given, also after a restart and after going back."""

import numpy as np
import pandas as pd
import pytest
import torch as th
from stable_baselines3.common.logger import Figure, Image, Video

from sb3_ext.tracking import CSVOutputFormat, run_logger


def write(writer, **values):
    writer.write(values, {})


def test_a_second_run_empties_the_file_and_an_appended_one_goes_on(tmp_path):
    path = tmp_path / "progress.csv"
    for append, expected in ((False, [1.0]), (True, [1.0, 1.0]), (False, [1.0])):
        logger = run_logger(tmp_path, tensorboard=False, append=append)
        logger.record("a", 1.0)
        logger.dump(1)
        logger.close()
        assert pd.read_csv(path)["a"].tolist() == expected


def test_appending_to_nothing_starts_a_file(tmp_path):
    writer = CSVOutputFormat(tmp_path / "progress.csv", append=True)
    assert writer.position() == 0
    write(writer, a=1)
    writer.close()
    assert (tmp_path / "progress.csv").read_text() == "a\n1\n"


def test_new_keys_after_a_restart_get_columns(tmp_path):
    path = tmp_path / "progress.csv"
    first = CSVOutputFormat(path)
    write(first, a=1 / 3, b="x")
    write(first, c=2, a=0.1)
    first.close()
    second = CSVOutputFormat(path, append=True)
    write(second, d=4.0, b="y")
    write(second, a=5.0)
    second.close()
    table = pd.read_csv(path)
    assert list(table.columns) == ["a", "b", "c", "d"]
    assert table["a"].fillna(-1).tolist() == [1 / 3, 0.1, -1, 5.0], "full precision"
    assert table["b"].fillna("").tolist() == ["x", "", "y", ""]
    assert table["c"].fillna(-1).tolist() == [-1, 2, -1, -1]
    assert table["d"].fillna(-1).tolist() == [-1, -1, 4.0, -1]


def test_going_back_drops_rows_and_keeps_columns(tmp_path):
    path = tmp_path / "progress.csv"
    writer = CSVOutputFormat(path)
    for number in range(5):
        write(writer, number=number, **({"late": 1.5} if number == 4 else {}))
    assert writer.position() == 5
    writer.rewind(2)
    assert writer.position() == 2
    assert path.read_text().splitlines() == ["number,late", "0,", "1,"]
    write(writer, number=20, late=2.5, new=3)
    writer.close()
    again = CSVOutputFormat(path, append=True)
    assert again.position() == 3
    again.rewind(3)
    again.close()
    table = pd.read_csv(path)
    assert table["number"].tolist() == [0, 1, 20]
    assert table["late"].fillna(-1).tolist() == [-1, -1, 2.5]
    assert table["new"].fillna(-1).tolist() == [-1, -1, 3]


@pytest.mark.parametrize("position", [-1, 3])
def test_it_cannot_go_back_to_rows_that_are_not_there(tmp_path, position):
    writer = CSVOutputFormat(tmp_path / "progress.csv")
    write(writer, a=1)
    write(writer, a=2)
    with pytest.raises(ValueError, match=f"has 2 rows, so it cannot go back to row {position}"):
        writer.rewind(position)
    writer.close()


def test_text_with_commas_quotes_and_line_ends_is_one_row(tmp_path):
    path = tmp_path / "progress.csv"
    text = 'a, "b"\n"c",\n'
    writer = CSVOutputFormat(path)
    write(writer, text=text, many=np.arange(100))
    write(writer, text="plain", **{"odd, key": 1})
    writer.close()
    again = CSVOutputFormat(path, append=True)
    assert again.position() == 2
    again.rewind(1)
    write(again, text="last")
    again.close()
    table = pd.read_csv(path)
    assert table["text"].tolist() == [text, "last"]
    assert list(table.columns) == ["text", "many", "odd, key"]


def test_what_a_killed_process_left_unfinished_is_dropped(tmp_path):
    path = tmp_path / "progress.csv"
    for torn in ("3", '3,"half a te', '3,"two\nlines'):
        path.write_text(f'a,b\n1,"x"\n2,"y"\n{torn}')
        writer = CSVOutputFormat(path, append=True)
        assert writer.position() == 2
        write(writer, a=4, b="z")
        writer.close()
        assert pd.read_csv(path)["a"].tolist() == [1, 2, 4]


def test_numbers_of_every_kind_stay_numbers_and_pictures_are_left_out(tmp_path):
    path = tmp_path / "progress.csv"
    writer = CSVOutputFormat(path)
    figure = Figure(None, close=False)
    image = Image(np.zeros((2, 2)), "HW")
    video = Video(th.zeros(1, 1, 3, 2, 2), 5)
    writer.write(
        {"tensor": th.tensor(2.5), "array": np.array(3.5), "single": np.float32(0.1), "flag": True}
        | {"figure": figure, "image": image, "video": video, "hidden": 1},
        {"hidden": ("csv",)},
    )
    writer.write({"figure": figure}, {})  # nothing is left of this one: no row
    assert writer.position() == 1
    writer.close()
    (row,) = pd.read_csv(path).to_dict("records")
    assert row == {"tensor": 2.5, "array": 3.5, "single": 0.1, "flag": True}


def test_a_new_column_never_leaves_half_a_file(tmp_path, monkeypatch):
    path = tmp_path / "progress.csv"
    writer = CSVOutputFormat(path)
    write(writer, a=1)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        write(writer, a=2, b=3)
    assert path.read_text() == "a\n1\n"
