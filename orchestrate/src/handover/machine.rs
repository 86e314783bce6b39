//! What a virtual machine is started with: the device, what to run on it, and the kernel's command line.

use std::path::Path;

use serde_json::{Value, json};

use crate::handover::program::Program;
use crate::handover::unfit::Unfit;

/// Where the kernel finds its root, where it writes, and that a machine whose kernel has failed ends.
const COMMAND_LINE: &str = "root=/dev/vda rw console=ttyS0 reboot=k panic=1";
const COMMAND_LINE_READ_ONLY: &str = "root=/dev/vda ro console=ttyS0 reboot=k panic=1";

/// An activation, as a machine has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'m> {
    pub(crate) name: &'m str,
    pub(crate) image: &'m str,
    /// A block device, or a directory where the store has no devices.
    pub(crate) path: &'m Path,
    pub(crate) is_device: bool,
    pub(crate) bytes: u64,
    /// Whether its device refuses writes.
    pub(crate) read_only: bool,
}

/// All that is known of it, for whoever starts the machine: users are resolved, since few guests' first programs
/// can do that.
///
/// A drive is written through (`Writeback`): what Firecracker does by default lets no flush of the guest's reach
/// the device. A directory has neither drive nor kernel: it can be shared into a machine, and it is for that to say how.
///
/// # Errors
/// [`Unfit::Path`].
pub(crate) fn machine(machine: Machine<'_>, program: &Program) -> Result<Value, Unfit> {
    let path = machine.path.to_str();
    let path =
        path.ok_or_else(|| Unfit::Path { path: machine.path.to_string_lossy().into_owned() })?;
    let who = &program.who;
    let mut value = json!({
        "name": machine.name,
        "image": machine.image,
        "args": program.args,
        "env": program.env,
        "cwd": program.cwd,
        "uid": who.uid,
        "gid": who.gid,
        "groups": who.groups,
    });
    let place = match machine.is_device {
        false => json!({"path": path}),
        true => json!({
            "device": path,
            "fstype": "ext4",
            "bytes": machine.bytes,
            "kernel_command_line": if machine.read_only { COMMAND_LINE_READ_ONLY } else { COMMAND_LINE },
            "firecracker": {
                "drive_id": "rootfs",
                "path_on_host": path,
                "is_root_device": true,
                "is_read_only": machine.read_only,
                "cache_type": "Writeback",
            },
        }),
    };
    if let (Value::Object(value), Value::Object(place)) = (&mut value, place) {
        value.extend(place);
    }
    if machine.read_only {
        value["read_only"] = json!(true);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::accounts::Identity;

    fn of(path: &str, is_device: bool) -> Value {
        let who = Identity { uid: 5, gid: 6, groups: vec![7], home: "/h".into() };
        let (args, env) = (vec!["/init".into()], vec!["PATH=/bin".into()]);
        let program = Program { args, env, cwd: "/srv".into(), who };
        let (name, image) = ("web-1", "s3://b/p/");
        let path = Path::new(path);
        let one = Machine { name, image, path, is_device, bytes: 4096, read_only: false };
        machine(one, &program).unwrap()
    }

    #[test]
    fn a_device_is_a_drive_whose_flushes_count() {
        let found = of("/dev/mapper/web-1", true);
        assert_eq!(found["device"], "/dev/mapper/web-1");
        assert_eq!(found["firecracker"]["path_on_host"], "/dev/mapper/web-1");
        assert_eq!(found["firecracker"]["cache_type"], "Writeback");
        assert_eq!(found["kernel_command_line"], "root=/dev/vda rw console=ttyS0 reboot=k panic=1");
        assert_eq!(
            (&found["uid"], &found["gid"], &found["groups"]),
            (&json!(5), &json!(6), &json!([7]))
        );
        assert_eq!((&found["args"], &found["cwd"]), (&json!(["/init"]), &json!("/srv")));
        assert_eq!(found["bytes"], 4096);
    }

    #[test]
    fn a_directory_has_no_drive_and_no_kernel() {
        let found = of("/srv/store/volumes/7", false);
        assert_eq!(found["path"], "/srv/store/volumes/7");
        for absent in ["device", "firecracker", "kernel_command_line", "fstype"] {
            assert_eq!(found.get(absent), None, "{absent}");
        }
    }
}
