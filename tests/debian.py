"""Debian packages that tests need: installed where they are missing."""

import os
import shutil
import subprocess


def install_packages(packages):
    """Installs what is missing.

    Args:
        packages: dict from what shows that a package is there - a program, or paths of which one exists, with "|" between
            them - to its name.

    Raises:
        RuntimeError: something is missing, and this is not Debian or not root.
        subprocess.CalledProcessError: apt-get failed; what it printed is on stderr.
    """
    missing = [package for shown_by, package in packages.items() if not any(map(_is_there, shown_by.split("|")))]
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise RuntimeError(f"these tests need Debian packages that root can install: apt-get install {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def _is_there(name):
    return os.path.exists(name) if name.startswith("/") else shutil.which(name) is not None
