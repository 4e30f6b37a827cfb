"""Train from a plain description: what ``sb3-ext train`` does, for Python.

    train(TrainOptions(algorithm="LFIWSAC", env="Hopper-v5", steps=100_000), "runs/hopper")

The description is written into the run directory. It rebuilds the run, so ``resume`` needs nothing
else.
"""

from sb3_ext.running.options import TrainOptions as TrainOptions
from sb3_ext.running.options import read_options as read_options
from sb3_ext.running.options import run_options as run_options
from sb3_ext.running.training import TrainResult as TrainResult
from sb3_ext.running.training import train as train
