#!/bin/sh
# Installs what only the tests need, where it is missing: a virtual screen with a user at it, Slurm, and RELION. Safe to run again.
# Tests whose programs cannot be had skip themselves and name them.
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing_packages() {  # a program of each package, and the package
    while read -r program package; do
        command -v "$program" > /dev/null || echo "$package"
    done <<- LIST
		Xvfb xvfb
		xdotool xdotool
		import imagemagick
		slurmctld slurmctld
		slurmd slurmd
		sbatch slurm-client
		munged munge
		setpriv util-linux
		chromium chromium
		ip iproute2
		relion_refine_mpi relion
	LIST
    [ -e /usr/share/fonts/truetype/dejavu ] || echo fonts-dejavu-core
}

# shellcheck disable=SC2046  # a list of words
"$(dirname "$0")/install_packages.sh" $(missing_packages)
missing=$(missing_packages | tr '\n' ' ')
[ -z "$missing" ] || echo "Tests are skipped for want of $missing- on Debian or Ubuntu: apt-get install $missing"
