#!/bin/sh
# An activation as the root device of a QEMU microvm.
#
#   qemu-microvm.sh IMAGE NAME KERNEL [INIT]
#
# KERNEL has virtio-mmio, virtio-blk and ext4 built in; for one of a distribution, which has them as modules, INITRD is an
# initramfs that loads them and mounts what root= says. INIT is the guest's first program, for images without /sbin/init:
# `/bin/sh` gives a shell on the console. ACCEL=tcg emulates the processor where there is no KVM. Needs root, jq, and a
# pool (a directory store has no devices).
set -eu

image=$1 name=$2 kernel=$3 init=${4:-} accel=${ACCEL:-kvm}

orchestrate activate "$image" --name "$name"
# Also where QEMU fails. What was written is kept.
trap 'orchestrate deactivate "$name"' EXIT
vm=$(orchestrate show "$name" --vm)
device=$(printf %s "$vm" | jq -er .device)
arguments=$(printf %s "$vm" | jq -er .kernel_command_line)
# A microvm has no keyboard controller, by which reboot=k ends a machine (Firecracker has one).
arguments="$arguments reboot=t"
[ -z "$init" ] || arguments="$arguments init=$init"
# Without KVM's clock a microvm has none that its kernel could measure the processor's by, which is the host's.
[ "$accel" = kvm ] || arguments="$arguments tsc_early_khz=$(awk '/^cpu MHz/ { printf "%d", $4 * 1000; exit }' /proc/cpuinfo)"

# cache=none: what the guest flushes is flushed, and QEMU keeps no second copy in the host's memory. The serial port is
# this terminal: Ctrl-A X ends the machine.
qemu-system-x86_64 -M microvm -accel "$accel" -cpu max -m 256 -no-reboot -nodefaults -display none \
    -serial mon:stdio -kernel "$kernel" ${INITRD:+-initrd "$INITRD"} -append "$arguments" \
    -drive "id=root,file=$device,format=raw,if=none,cache=none" -device virtio-blk-device,drive=root
