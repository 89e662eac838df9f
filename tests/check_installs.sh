#!/usr/bin/env bash
# Installs each extra into an empty environment, without constraints.txt, as a user would: `pip check` must be clean and the
# commands must work. Downloads gigabytes and takes minutes, so it is run by `make check-installs` only.
#
#   PYTHON_BASE=python3.8 PYTHON=python3.11 WORK=/tmp/somewhere tests/check_installs.sh [base core scipion all]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-$(tools/find_python.sh)}
PYTHON_BASE=${PYTHON_BASE:-$PYTHON}
WORK=${WORK:-$(mktemp -d)}
[ $# -gt 0 ] || set -- base core scipion all
mkdir -p "$WORK"

build_wheel() {  # from a copy: a build leaves files behind that could hide a missing one next time
    rm -rf "$WORK/source" "$WORK/wheel"
    mkdir -p "$WORK/source"
    cp -r setup.py pyproject.toml MANIFEST.in README.md LICENSE CHANGES.txt constraints.txt \
        cryopares_core cryopares_plugin cryopares_*.py "$WORK/source"
    "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$WORK/wheel" "$WORK/source"
}

check_commands() {  # extra, bin folder; run outside the repository, so that the installed files are what is tested
    cd "$WORK"
    "$2/cryopares_train" --show-config | grep -q "augmenter:"
    "$2/cryopares_train" --help > /dev/null
    "$2/python" -m cryopares_train --show-config > /dev/null
    "$2/cryopares_simulate" --help > /dev/null
    "$2/cryopares_report" --help > /dev/null
    case $1 in
        core | all) "$2/cryopares_simulate" --phantom --n_particles 20 --image_size_px 32 --out_dir "$WORK/particles" --overwrite > /dev/null ;;
        *) check_message "$2" ;;
    esac
    case $1 in
        scipion | all) "$2/python" -O -c 'import sys, cryopares_plugin; sys.exit("torch" in sys.modules)' ;;
    esac
    cd - > /dev/null
}

check_message() {  # without the core a command that needs it names what to install, and leaves with 2
    local code=0
    "$1/cryopares_simulate" --phantom --out_dir "$WORK/nothing" 2> "$WORK/message" || code=$?
    [ "$code" = 2 ] && grep -qF "scipion-em-cryopares[core]" "$WORK/message"
}

build_wheel
wheel=$(echo "$WORK"/wheel/*.whl)
for extra in "$@"; do
    python=$PYTHON suffix="[$extra]"
    [ "$extra" != base ] || python=$PYTHON_BASE suffix=""
    started=$SECONDS
    rm -rf "$WORK/$extra"
    "$python" -m venv "$WORK/$extra"
    "$WORK/$extra/bin/pip" install --quiet "scipion-em-cryopares$suffix @ file://$wheel"
    "$WORK/$extra/bin/pip" check
    check_commands "$extra" "$WORK/$extra/bin"
    echo "$extra: $("$python" --version), $((SECONDS - started)) s, $(du -sh "$WORK/$extra" | cut -f1)"
done
