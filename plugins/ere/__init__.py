"""Emphasising recent experience (Wang and Ross 2019)."""
