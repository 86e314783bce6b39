#!/bin/sh
# An activation as the root device of a QEMU microvm.
#
#   qemu-microvm.sh IMAGE NAME KERNEL [INIT]
#
# KERNEL needs virtio-mmio, virtio-blk and ext4 built in. INIT is the guest's first program, for images without
# /sbin/init: `/bin/sh` gives a shell on the console. Needs root, jq, and a pool (a directory store has no devices).
set -eu

image=$1 name=$2 kernel=$3 init=${4:-}

orchestrate activate "$image" --name "$name"
vm=$(orchestrate show "$name" --vm)
device=$(printf %s "$vm" | jq -er .device)
arguments=$(printf %s "$vm" | jq -er .kernel_command_line)
[ -z "$init" ] || arguments="$arguments init=$init"

# cache=none: what the guest flushes is flushed, and QEMU keeps no second copy in the host's memory.
qemu-system-x86_64 -M microvm -enable-kvm -cpu host -m 256 -no-reboot -nodefaults -nographic -serial stdio \
    -kernel "$kernel" -append "$arguments" \
    -drive "id=root,file=$device,format=raw,if=none,cache=none" -device virtio-blk-device,drive=root
orchestrate deactivate "$name"
