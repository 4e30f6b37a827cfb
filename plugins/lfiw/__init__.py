"""LFIW: experience replay with likelihood-free importance weights."""
