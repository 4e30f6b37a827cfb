"""Engines: other ways to compute the same gradient step, for the shapes that most runs have.

An engine owns no network. It lays the parameters that SB3 made side by side in memory, where they
stay parameters under their names, and computes the gradients that autograd would. One concern a
module: ``products`` (matrix products), ``flat`` (Adam and target networks on flat memory), ``mlp``
(networks of ReLU layers), ``gaussian`` (SAC's actor), ``actor_critic`` (what fits, and critics),
``sac`` and ``td3`` (the steps).
"""
