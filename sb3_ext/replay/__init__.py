"""Where transitions are kept and how a batch is drawn from them."""
