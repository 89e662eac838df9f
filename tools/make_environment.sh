#!/bin/sh
# Makes the virtual environment that the Makefile works in, or brings it up to date: tools/make_environment.sh FOLDER
set -eu
folder=$1
python=$("$(dirname "$0")/find_python.sh")
# Scipion pins a numpy that cannot be had from Python 3.13 on. There its tests skip themselves.
extras=$("$python" -c 'import sys; print("all,test" if sys.version_info < (3, 13) else "core,test")')
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ ! -x "$folder/bin/pip" ]; then
    if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
        echo "$python cannot make virtual environments. On Debian or Ubuntu: apt-get install python$version-venv" >&2
        exit 1
    fi
    echo "Making the environment $folder with $python; installing takes some minutes, once."
    [ "$extras" = all,test ] || echo "Scipion needs Python 3.11 or 3.12, so it is left out here: the core alone."
    "$python" -m venv --clear "$folder"
fi
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
"$folder/bin/python" -m pip check
