"""Methods, one folder each; the import name is `sb3_ext.plugins.<method>`."""
