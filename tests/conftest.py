"""One thread, no window, no network: set before anything imports torch, matplotlib or wandb."""

import os

# Workers of pytest-xdist share few cores: a second thread each would only slow all of them down.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

import torch  # noqa: E402

torch.set_num_threads(1)
