#!/bin/sh
# Prints the first Python from 3.11 on that runs. 3.11 comes first: Scipion's pinned packages have
# ready-made wheels for it. A name on the PATH is no proof (pyenv has names for versions that are switched off): each is tried.
for name in python3.11 python3.12 python3.13 python3; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
        command -v "$name"
        exit 0
    fi
done
echo "Python 3.11 or newer is needed and none was found (tried python3.11, python3.12, python3.13, python3)." >&2
echo "On Debian or Ubuntu: apt-get install python3.11 python3.11-venv" >&2
exit 1
