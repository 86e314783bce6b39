#!/bin/sh
# Makes the Python environment with boto3, moto and localbucket in the cache, where it is not there yet; it needs PyPI and python3-venv.
# Debian refuses a pip for the whole system, and nothing of it belongs to the system.
set -eu
place="${XDG_CACHE_HOME:-$HOME/.cache}/veneer/aws-python"
made_of='boto3==1.44.8 moto[server,s3]==5.2.5 localbucket==1.2.1'
[ "$(cat "$place/made-of" 2>/dev/null)" = "$made_of" ] && exit 0
rm -rf "$place"
python3 -m venv "$place"
# shellcheck disable=SC2086 -- several words
"$place/bin/pip" install -q --disable-pip-version-check $made_of
echo "$made_of" >"$place/made-of"
