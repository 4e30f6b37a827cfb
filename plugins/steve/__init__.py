"""MVE and STEVE: targets that look ahead in a learned model."""
