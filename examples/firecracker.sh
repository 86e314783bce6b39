#!/bin/sh
# An activation as the root device of a Firecracker microVM, in Firecracker's jail.
#
#   firecracker.sh IMAGE NAME KERNEL [MEMORY_MIB]
#
# The image has to have an /sbin/init (or /init, /bin/init, /bin/sh: what the kernel looks for), since a container image
# mostly has none; `orchestrate show NAME --vm` has the command line, the environment and the user for an init of yours.
# Needs root, jq, firecracker and jailer in PATH, and a pool (a directory store has no devices).
set -eu

image=$1 name=$2 kernel=$3 memory=${4:-256}
case $name in
*[!A-Za-z0-9-]*)
    echo "firecracker.sh: $name: a machine's id is of letters, digits and hyphens" >&2
    exit 100
    ;;
esac
uid=${JAIL_UID:-30000} gid=${JAIL_GID:-30000}
jail=/srv/jailer/firecracker/$name/root

mkdir -p "$jail"; chmod go-w "$jail"
# The jail sees its own root directory only: the device has a node there, which belongs to its user and goes with it.
orchestrate activate "$image" --name "$name" --device-owner "$uid:$gid" --device-mode 0600 --node "$jail/rootfs"
# Also where the machine fails; deactivate removes the node before the device.
trap 'orchestrate deactivate "$name" && rm -r "/srv/jailer/firecracker/$name"' EXIT
vm=$(orchestrate show "$name" --vm)

cp "$kernel" "$jail/vmlinux"
chown "$uid:$gid" "$jail/vmlinux"
# The drive as `show` has it, with the path as the jail sees it. Its cache_type is Writeback: by default no flush of
# the guest's reaches the device, and a crash of the host loses what the guest has synced.
printf %s "$vm" | jq --argjson memory "$memory" '{
    "boot-source": {kernel_image_path: "/vmlinux", boot_args: .kernel_command_line},
    drives: [.firecracker + {path_on_host: "/rootfs"}],
    "machine-config": {vcpu_count: 1, mem_size_mib: $memory}
}' >"$jail/vm.json"
chown "$uid:$gid" "$jail/vm.json"

jailer --id "$name" --exec-file "$(command -v firecracker)" --uid "$uid" --gid "$gid" -- \
    --no-api --config-file /vm.json
