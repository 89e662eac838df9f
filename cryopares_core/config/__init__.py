"""Every parameter of the program, once: command lines, YAML files, `--show-config` and Scipion's forms are made of it.

Nothing here imports torch or numpy, and all of it runs on Python 3.8, because Scipion's own environment imports it.
"""
