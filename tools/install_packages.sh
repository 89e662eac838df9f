#!/bin/sh
# Installs system packages where that may be done without asking, as root on Debian and Ubuntu: tools/install_packages.sh PACKAGE…
# Elsewhere, and where it fails, nothing is said: the caller looks what is there afterwards.
[ $# -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || exit 0
echo "Installing the system packages $*"
export DEBIAN_FRONTEND=noninteractive
options="-qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o DPkg::Lock::Timeout=120"
# shellcheck disable=SC2086  # a list of words
{ apt-get update $options && apt-get install $options -y --no-install-recommends "$@"; } > /dev/null 2>&1
exit 0
