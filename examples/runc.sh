#!/bin/sh
# An activation under runc: activate, make a bundle, run it, take all of it away.
#
#   runc.sh IMAGE NAME [COMMAND [WORD ..]]
#
# Without a command it runs what the image says. With crun or youki in RUNTIME it is the same. Needs root.
set -eu

image=$1 name=$2
shift 2
runtime=${RUNTIME:-runc}
bundle=/run/veneer-bundles/$name

# The rootfs of an image has programs that run as root for whoever starts them: nobody else comes in here.
mkdir -p -m 700 /run/veneer-bundles

orchestrate activate "$image" --name "$name"
# Not removed while the activation is mounted in it, which would remove what is there.
trap 'orchestrate deactivate "$name" --unmount && rm -rf --one-file-system "$bundle"' EXIT
orchestrate bundle "$name" "$bundle" --empty-machine-id --resolv-conf /etc/resolv.conf -- "$@"
# Not exec: what was mounted is taken away afterwards. The network namespace of the container is empty.
"$runtime" run -b "$bundle" "$name"
