"""Track and ResumableCheckpoint in one folder: a killed script, started again unchanged."""

import json

import pandas as pd
import pytest

from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.tracking import Track
from sb3_ext.trees import same
from tests.cut_runs import CutError, Recorder
from tests.environments import make_env
from tests.tracking.runs import sac


@pytest.mark.parametrize(
    ("track_first", "cut", "at"), [(True, 175, 150), (False, 175, 150), (True, 27, 0)]
)
def test_the_records_are_as_if_nothing_had_happened(tmp_path, track_first, cut, at):
    def learn(name, cut=None):
        track = Track(tmp_path / name, tensorboard=False)
        keeping = ResumableCheckpoint(tmp_path / name, every=30)
        pair = [track, keeping] if track_first else [keeping, track]
        model = sac(env=make_env())
        try:
            model.learn(200, callback=[Recorder(cut), *pair], log_interval=1)
        finally:
            track.close()
        return model

    whole = learn("whole")
    with pytest.raises(CutError):
        learn("run", cut=cut)
    resumed = learn("run")
    assert same(whole.get_parameters(), resumed.get_parameters())
    tables = [pd.read_csv(tmp_path / name / "progress.csv") for name in ("whole", "run")]
    assert len(tables[0]) > 5
    one, other = (table.drop(columns=["time/fps", "time/time_elapsed"]) for table in tables)
    assert one.equals(other[one.columns])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [entry["at"] for entry in config["resumed"]] == [at]
