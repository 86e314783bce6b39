//! What is known of the walls around an extractor: which there are, and which stand.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Whether a fence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Which.
    pub fence: Fence,
    /// Whether it stands.
    pub stands: bool,
    /// Why it does not, or how far it reaches; may be empty.
    pub note: String,
}

impl Standing {
    /// No wall at all, as it was asked for.
    pub(crate) fn none() -> Vec<Standing> {
        let down = |fence| Standing { fence, stands: false, note: "switched off".into() };
        Fence::ALL.map(down).to_vec()
    }
}

/// One fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fence {
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

impl Fence {
    /// Every fence, in the order in which they are put up.
    pub const ALL: [Fence; 7] = [
        Fence::Rlimits,
        Fence::Mount,
        Fence::Chroot,
        Fence::Capabilities,
        Fence::NoNewPrivs,
        Fence::Landlock,
        Fence::Seccomp,
    ];

    /// The stable name, as in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Fence::Rlimits => "rlimits",
            Fence::Mount => "mount",
            Fence::Chroot => "chroot",
            Fence::Capabilities => "capabilities",
            Fence::NoNewPrivs => "no_new_privs",
            Fence::Landlock => "landlock",
            Fence::Seccomp => "seccomp",
        }
    }

    /// The right, or the kernel, that it lacks where it fails with `errno`.
    pub(crate) fn needs(self, errno: Errno) -> String {
        let denied = matches!(errno, Errno::EPERM | Errno::EACCES);
        let right = match (self, denied) {
            (Fence::Rlimits, _) => "CAP_SYS_RESOURCE",
            (Fence::Mount, true) => "CAP_SYS_ADMIN",
            (Fence::Mount, false) => {
                "open_tree(2) and mount_setattr(2), Linux 5.12, or a root that is mounted nodev, nosuid \
                 and noexec"
            }
            (Fence::Chroot, _) => "CAP_SYS_CHROOT",
            (Fence::Capabilities, _) => "capset(2)",
            (Fence::NoNewPrivs, _) => "prctl(2)",
            (Fence::Landlock, true) => "no_new_privs, or CAP_SYS_ADMIN",
            (Fence::Landlock, false) => {
                "a kernel with Landlock, Linux 5.13, and `landlock` in lsm="
            }
            (Fence::Seccomp, true) => "no_new_privs, or CAP_SYS_ADMIN",
            (Fence::Seccomp, false) => "a kernel with seccomp filters",
        };
        let namespaces = matches!(self, Fence::Mount | Fence::Chroot) && denied;
        match namespaces && !nix::unistd::geteuid().is_root() {
            // See sysctl/user.rst, and what distributions add.
            true => format!(
                "{right}, or user namespaces for who is not root (user.max_user_namespaces, \
                 kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
            ),
            false => right.into(),
        }
    }
}
