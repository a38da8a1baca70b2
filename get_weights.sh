#!/bin/sh
# Put ResMem's released weights into the user cache of resmem_extract. See --help.
set -eu

sha256=8e4b8ab0ac338909add68a674e9bd4c1602350731abe7f97bc060dc159706a53
size=527697574
name=resmem-8e4b8ab0.pt
requirement=resmem==1.1.6
member=resmem/model.pt
osf_files=https://api.osf.io/v2/nodes/qf5ry/files/osfstorage/

usage() {
    cat <<EOF
Usage: ./get_weights.sh [--cache DIR] [CONFIG.yaml | NAME]...

With configurations or names of networks, fetch the weights of all networks that they name, by the
installed resmem_extract. Without, put ResMem's released weights (503 MiB, non-commercial use only) where resmem_extract looks for
them, for machines whose compute nodes have no internet: run it where there is internet, or where
the package 'resmem' is installed. The file is taken from the first of these that has it:
  1. the installed package 'resmem' of \$PYTHON (a hard link where possible: no space is used)
  2. the package index that pip uses
  3. the authors' copy at https://osf.io/qf5ry/ (with curl or wget)
Size and SHA-256 are checked. It may be run twice, and may be interrupted.

  --cache DIR   user cache [\$RESMEM_EXTRACT_CACHE, else \$XDG_CACHE_HOME/resmem_extract,
                else ~/.cache/resmem_extract]; the file becomes DIR/weights/$name
  -h, --help    this text

Environment: PYTHON, the interpreter to use [python3].
Exit status: 0 the file is there and verified; 1 it could not be had; 2 wrong usage.

Examples: ./get_weights.sh --cache /shared/resmem && export RESMEM_EXTRACT_CACHE=/shared/resmem
          ./get_weights.sh configs/resmem_features.yaml torchvision/resnet50
EOF
}

fail() {
    status=$1
    shift
    printf 'get_weights.sh: %s\n' "$*" >&2
    exit "$status"
}

say() {
    printf '%s\n' "$*" >&2
}

# is_released FILE: its size and SHA-256 are the released ones.
is_released() {
    "$python" - "$1" "$size" "$sha256" <<'EOF'
import hashlib, os, sys
path, size, sha256 = sys.argv[1:]
if not os.path.isfile(path) or os.path.getsize(path) != int(size):
    sys.exit(1)
digest = hashlib.sha256()
with open(path, "rb") as stream:
    for block in iter(lambda: stream.read(1 << 20), b""):
        digest.update(block)
sys.exit(digest.hexdigest() != sha256)
EOF
}

# Each from_* leaves the weights at $scratch/weights and succeeds, or says why not in $why.

from_installed() {
    why="'resmem' is not installed"
    "$python" - "${requirement%%=*}" "$member" "$scratch/weights" 2>/dev/null <<'EOF' || return 1
import os, shutil, sys
from importlib import metadata
distribution, member, target = sys.argv[1:]
for file in metadata.distribution(distribution).files or ():
    if str(file) == member:
        source = os.path.realpath(str(file.locate()))
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
        sys.exit(0)
sys.exit(1)
EOF
    why="the installed 'resmem' has another file"
}

from_index() {
    say "fetching $requirement from the package index (503 MiB) ..."
    mkdir "$scratch/wheel"
    # pip unpacks beside its download: keep both off a small /tmp.
    if ! TMPDIR=$scratch "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$scratch/wheel" "$requirement" >"$scratch/log" 2>&1; then
        why=$(tail -n 1 "$scratch/log")
        return 1
    fi
    why="$requirement has no $member"
    "$python" - "$scratch/wheel" "$member" "$scratch/weights" 2>/dev/null <<'EOF' || return 1
import os, shutil, sys, tarfile, zipfile
folder, member, target = sys.argv[1:]
archive = os.path.join(folder, os.listdir(folder)[0])
if zipfile.is_zipfile(archive):
    source = zipfile.ZipFile(archive).open(member)
else:  # a source distribution keeps everything in one folder
    source = tarfile.open(archive).extractfile(os.path.basename(archive)[: -len(".tar.gz")] + "/" + member)
with open(target, "wb") as sink:
    shutil.copyfileobj(source, sink, 1 << 20)
EOF
    why="$requirement has another file"
}

from_osf() {
    say "looking at https://osf.io/qf5ry/ ..."
    pending=$osf_files
    link=
    while [ -n "$pending" ] && [ -z "$link" ]; do
        url=${pending%% *}
        pending=${pending#"$url"}
        pending=${pending# }
        download "$url" "$scratch/listing" || return 1
        why="https://osf.io/qf5ry/ gave no list of files"
        # The file is known by its hash, whatever its name or folder.
        listed=$("$python" - "$scratch/listing" "$sha256" 2>/dev/null <<'EOF'
import json, sys
with open(sys.argv[1], encoding="utf-8") as stream:
    listing = json.load(stream)
for entry in listing["data"]:
    attributes = entry["attributes"]
    if attributes["kind"] == "folder":
        print(entry["relationships"]["files"]["links"]["related"]["href"])
    elif attributes["extra"]["hashes"]["sha256"] == sys.argv[2]:
        print("=" + entry["links"]["download"])
if listing["links"].get("next"):
    print(listing["links"]["next"])
EOF
        ) || return 1
        for line in $listed; do
            case $line in
                =*) link=${line#=} ;;
                *) pending="${pending:+$pending }$line" ;;
            esac
        done
    done
    why="https://osf.io/qf5ry/ does not have it"
    [ -n "$link" ] || return 1
    say "fetching $link (503 MiB) ..."
    download "$link" "$scratch/weights" || return 1
    why="$link is another file"
}

# download URL FILE
download() {
    why="cannot reach $1"
    if command -v curl >/dev/null 2>&1; then
        curl --fail --silent --globoff --location --retry 3 --output "$2" "$1" 2>/dev/null
    elif command -v wget >/dev/null 2>&1; then
        wget --quiet --tries 3 --output-document "$2" "$1" 2>/dev/null
    else
        why="neither curl nor wget is installed"
        return 1
    fi
}

cache=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --cache) [ $# -ge 2 ] || fail 2 "--cache needs a folder; see --help"; cache=$2; shift 2 ;;
        --cache=*) cache=${1#*=}; shift ;;
        -*) fail 2 "unknown argument '$1'; see --help" ;;
        *) break ;;
    esac
done
if [ -z "$cache" ]; then
    cache=${RESMEM_EXTRACT_CACHE:-}
    # Python expands a literal ~ in the variable; so does this.
    case $cache in "~" | "~/"*) cache=$HOME${cache#"~"} ;; esac
fi
if [ -z "$cache" ]; then
    home=${HOME:-}
    cache=${XDG_CACHE_HOME:-${home:?no home directory: give --cache DIR}/.cache}/resmem_extract
fi
python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 || fail 2 "no '$python' here; set PYTHON to a Python 3"

if [ $# -gt 0 ]; then
    export RESMEM_EXTRACT_CACHE="$cache"
    wanted=$("$python" -m resmem_extract weights fetch --dry-run "$@") || exit $?
    # ResMem's come from where this script can find them, all others from their publishers.
    case "
$wanted" in
        *"
resmem: "*) (set --; PYTHON=$python "$0" --cache "$cache") || exit $? ;;
    esac
    exec "$python" -m resmem_extract weights fetch "$@"
fi

folder=$cache/weights
target=$folder/$name
if is_released "$target"; then
    say "already there, verified: $target"
    exit 0
fi
[ ! -e "$target" ] || say "not the released file, to be replaced: $target"

mkdir -p "$folder" 2>/dev/null || fail 1 "cannot make the folder $folder; give --cache DIR"
scratch=$(mktemp -d "$folder/.fetch-XXXXXX" 2>/dev/null) || fail 1 "cannot write to $folder; give --cache DIR"
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# What a run that was killed outright has left.
find "$folder" -maxdepth 1 -name '.fetch-*' -mtime +1 -exec rm -rf {} + 2>/dev/null || :

reasons=
for source in from_installed from_index from_osf; do
    rm -f "$scratch/weights"
    if $source && is_released "$scratch/weights"; then
        mv -f "$scratch/weights" "$target"
        say "verified: $target"
        exit 0
    fi
    rm -rf "$scratch/wheel"
    reasons="${reasons:+$reasons; }$why"
done
fail 1 "could not get $name ($reasons); run this where there is internet, or copy the file to $target"
