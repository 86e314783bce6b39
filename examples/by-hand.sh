#!/bin/sh
# An image from S3 to an activated device, by the four small programs, without `orchestrate`.
#
#   by-hand.sh POOL s3://bucket/prefix/ NAME
#
# POOL is a live, empty thin pool (`thin pool create`, `thin pool up`). What a failed run leaves behind is
# deleted by hand too: that, and sharing, is what `orchestrate` is for.
set -eu
set -o pipefail

pool=$1 image=$2 name=$3
size=4G
say() { echo "by-hand: $*" >&2; }

# The template: an empty ext4, made once. Data will begin where the pool's blocks do.
work=/dev/mapper/$name-work
thin --pool "$pool" create 1
thin --pool "$pool" activate 1 "$name-work" --size $size
unpack -q --device "$work" --blank whole
thin --pool "$pool" deactivate "$name-work"

# Each layer is a snapshot of the one below it.
layers=$(fetch --list "$image" | awk '{ print $4 }')
id=1
for layer in $layers; do
    parent=$id
    id=$((id + 1))
    say "$layer -> thin $id"
    thin --pool "$pool" snap $id $parent
    thin --pool "$pool" activate $id "$name-work" --size $size
    # unpack says yes only at the archive's verified end; before that the volume is worth nothing. Nobody
    # but this script has had the volume, so the layers below are as they were sealed.
    fetch -q "$layer" | unpack --device "$work" --parent-sealed
    thin --pool "$pool" deactivate "$name-work"
done

# The activation: one snapshot of the top.
thin --pool "$pool" snap $((id + 1)) $id
thin --pool "$pool" activate $((id + 1)) "$name" --size $size
say "$name is now /dev/mapper/$name"
