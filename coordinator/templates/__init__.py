"""Install templates: the scripts that make a machine a runner, ours and those that people wrote instead.

`language` is what they are written in, `values` what they may use, `builtin` has ours, and `check` is asked before one
is kept. Who may change them and where they are kept is not here.
"""
