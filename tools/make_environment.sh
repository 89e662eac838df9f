#!/bin/sh
# Makes the virtual environment that the Makefile works in, or brings it up to date: tools/make_environment.sh FOLDER
set -eu
folder=$1
python=$("$(dirname "$0")/find_python.sh")
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Scipion pins a numpy that cannot be had from Python 3.13 on. There its tests skip themselves.
extras=$("$python" -c 'import sys; print("all,test" if sys.version_info < (3, 13) else "core,test")')

missing_packages() {  # Debian and Ubuntu take these two parts out of Python; Scipion draws its windows with the second
    "$python" -c 'import ensurepip, venv' 2> /dev/null || echo "python$version-venv"
    [ "$extras" = core,test ] || "$python" -c 'import tkinter' 2> /dev/null || echo "python3-tk"
}

install_missing_packages() {
    missing=$(missing_packages | tr '\n' ' ')
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086  # a list of words
        "$(dirname "$0")/install_packages.sh" $missing
        missing=$(missing_packages | tr '\n' ' ')
    fi
    case $missing in
        *venv*) echo "$python cannot make virtual environments. On Debian or Ubuntu: apt-get install $missing" >&2; exit 1 ;;
        *tk*) echo "Scipion wants tkinter; its tests are skipped. To have them, on Debian or Ubuntu: apt-get install $missing" ;;
    esac
}

if [ ! -x "$folder/bin/pip" ]; then
    install_missing_packages
    echo "Making the environment $folder with $python; installing takes some minutes, once."
    [ "$extras" = all,test ] || echo "Scipion needs Python 3.11 or 3.12, so it is left out here: the core alone."
    "$python" -m venv --clear "$folder"
fi
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
"$folder/bin/python" -m pip check
