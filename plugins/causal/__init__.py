"""Causal confusion in imitation (de Haan, Jayaraman, Levine 2019): diagnosis and cure."""
