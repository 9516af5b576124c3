#!/bin/sh
# Installs edgeprune and its service on a device, in a virtual environment, without torch.
#
#     ./install.sh WHEEL [FOLDER]
#
# WHEEL    a path (`pip wheel --no-deps -w dist .` makes a wheel in a checkout) or a name that pip knows
# FOLDER   for the environment   [default: /opt/edgeprune for root, else ~/.local/share/edgeprune]
#
# Run it again to update. PYTHON names a Python other than python3; pip's own settings (PIP_INDEX_URL
# and so on) apply. Exit code 2: this device cannot run edgeprune, and a sentence says why.
set -eu

fail() {
    echo "install.sh: $*" >&2
    exit 2
}

package=${1:-}
[ -n "$package" ] || fail "Name a wheel: ./install.sh edgeprune-0.1.0-py3-none-any.whl, which" \
    "'pip wheel --no-deps -w dist .' makes in a checkout of edgeprune."
if [ "$(id -u)" -eq 0 ]; then
    folder=${2:-/opt/edgeprune}
else
    folder=${2:-$HOME/.local/share/edgeprune}
fi
python=${PYTHON:-python3}

command -v "$python" >/dev/null || fail "There is no $python here: apt install python3 python3-venv."
facts=$("$python" -c 'import struct, sys
print(struct.calcsize("P") * 8, "%d.%d" % sys.version_info[:2], int(sys.version_info >= (3, 11)))')
# shellcheck disable=SC2086  # three words
set -- $facts
# A 64-bit kernel may run a 32-bit system, so ask Python, not uname.
[ "$1" = 64 ] || fail "This system is a $1-bit one, which ONNX Runtime does not run on: install" \
    "the 64-bit Raspberry Pi OS."
[ "$3" = 1 ] || fail "This is Python $2 and edgeprune needs 3.11 or newer: update to Raspberry Pi" \
    "OS 12 (bookworm), or name a newer Python with PYTHON=."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "This Python cannot make environments: apt install python3-venv."

case $package in
    *.whl)
        [ -f "$package" ] || fail "There is no wheel $package."
        wheel=$(cd "$(dirname "$package")" && pwd)/$(basename "$package")
        wanted="edgeprune[service] @ file://$wheel"
        ;;
    *) wanted=$(echo "$package" | sed 's/^edgeprune/edgeprune[service]/') ;;
esac

if [ -e "$folder" ] && [ ! -f "$folder/pyvenv.cfg" ]; then
    [ -d "$folder" ] && [ -z "$(ls -A "$folder")" ] ||
        fail "$folder holds something else: name another folder after the wheel."
fi
# Recreate an environment whose Python is gone after an update.
"$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$folder"

# Wheels only: a package without one for this device would compile for an hour, or fail.
"$folder/bin/python" -m pip install --quiet --upgrade --only-binary=:all: "$wanted" ||
    fail "pip could not install $package; its own words stand above."

if ! "$folder/bin/python" -c 'from edgeprune import kernels; exit(not kernels.installed())'; then
    if command -v c++ >/dev/null; then
        "$folder/bin/python" -m edgeprune.kernels.compile
    else
        echo "Without a C++ compiler the sparse operators are left out; bundles run without them."
    fi
fi
"$folder/bin/edgeprune" inspect --system
echo
echo "Installed. Try: $folder/bin/edgeprune run BUNDLE \"A sentence\""
