"""Nothing here without the package imitation, which `make install` puts in."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("imitation") else ["test_*.py"]
