//! What is known of the walls around an extractor: which there are, and which stand.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Whether a wall stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Which.
    pub wall: Wall,
    /// Whether it stands.
    pub stands: bool,
    /// Why it does not, or how far it reaches; may be empty.
    pub note: String,
}

impl Standing {
    /// No wall at all, as it was asked for.
    pub(crate) fn none() -> Vec<Standing> {
        let down = |wall| Standing { wall, stands: false, note: "switched off".into() };
        Wall::ALL.map(down).to_vec()
    }
}

/// One wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wall {
    /// Resource limits.
    Rlimits,
    /// A detached copy of the root's mount: nodev, nosuid, noexec.
    Mount,
    /// chroot into it.
    Chroot,
    /// Six capabilities at most.
    Capabilities,
    /// no_new_privs.
    NoNewPrivs,
    /// Landlock.
    Landlock,
    /// A seccomp allow-list.
    Seccomp,
}

impl Wall {
    /// Every wall, in the order in which they are put up.
    pub const ALL: [Wall; 7] = [
        Wall::Rlimits,
        Wall::Mount,
        Wall::Chroot,
        Wall::Capabilities,
        Wall::NoNewPrivs,
        Wall::Landlock,
        Wall::Seccomp,
    ];

    /// The stable name, as in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Wall::Rlimits => "rlimits",
            Wall::Mount => "mount",
            Wall::Chroot => "chroot",
            Wall::Capabilities => "capabilities",
            Wall::NoNewPrivs => "no_new_privs",
            Wall::Landlock => "landlock",
            Wall::Seccomp => "seccomp",
        }
    }

    /// The right, or the kernel, that it lacks where it fails with `errno`.
    pub(crate) fn needs(self, errno: Errno) -> String {
        let denied = matches!(errno, Errno::EPERM | Errno::EACCES);
        let right = match (self, denied) {
            (Wall::Rlimits, _) => "CAP_SYS_RESOURCE",
            (Wall::Mount, true) => "CAP_SYS_ADMIN",
            (Wall::Mount, false) => {
                "open_tree(2) and mount_setattr(2), Linux 5.12, or a root that is mounted nodev, nosuid \
                 and noexec"
            }
            (Wall::Chroot, _) => "CAP_SYS_CHROOT",
            (Wall::Capabilities, _) => "capset(2)",
            (Wall::NoNewPrivs, _) => "prctl(2)",
            (Wall::Landlock, true) => "no_new_privs, or CAP_SYS_ADMIN",
            (Wall::Landlock, false) => "a kernel with Landlock, Linux 5.13, and `landlock` in lsm=",
            (Wall::Seccomp, true) => "no_new_privs, or CAP_SYS_ADMIN",
            (Wall::Seccomp, false) => "a kernel with seccomp filters",
        };
        let namespaces = matches!(self, Wall::Mount | Wall::Chroot) && denied;
        match namespaces && !nix::unistd::geteuid().is_root() {
            // See sysctl/user.rst, and what distributions add.
            true => format!(
                "{right}, or user namespaces for users other than root (user.max_user_namespaces, \
                 kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
            ),
            false => right.into(),
        }
    }
}
