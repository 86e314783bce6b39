//! The seccomp filter of a scanner: what no scanner has a use for fails with EPERM. A scanner is any program, so
//! this is a list of what is denied, unlike that of the child that unpacks.

use nix::libc::{
    self, BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    c_long, sock_filter,
};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Mounts and namespaces, which could take walls away; other ways to a file than its name; the kernel itself;
/// root's keys; a ring that does what it is asked for beside this filter.
const DENIED: &[c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_vm_writev,
    libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
];

/// Sockets of these families alone: a unix socket would lead to whoever serves root on this host.
const FAMILIES: &[i32] = &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Of clone(2): every namespace.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const DENY: u32 = fail(libc::EPERM);

const fn fail(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
}

fn jump(code: u32, k: u32, yes: usize, no: usize) -> sock_filter {
    let small = |far: usize| u8::try_from(far).unwrap_or(u8::MAX);
    let code = u16::try_from(code).unwrap_or(u16::MAX);
    sock_filter { code, jt: small(yes), jf: small(no), k }
}

fn load(offset: u32) -> sock_filter {
    jump(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

fn equal(k: u32, yes: usize, no: usize) -> sock_filter {
    jump(BPF_JMP | BPF_JEQ | BPF_K, k, yes, no)
}

fn done(verdict: u32) -> sock_filter {
    jump(BPF_RET | BPF_K, verdict, 0, 0)
}

fn number(nr: c_long) -> u32 {
    u32::try_from(nr).unwrap_or(u32::MAX)
}

/// The lower half of an argument, the first being 0, in `struct seccomp_data`.
const fn argument(n: u32) -> u32 {
    16 + 8 * n
}

/// What a file in `scan.cache` may never have: any user of the host could run it.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Calls that set a mode, and which argument that is. fchmodat2 has one number everywhere.
const MODES: &[(c_long, u32)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (452, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, 1),
];

/// Calls whose mode counts where a file is made, by the flags in the argument before it.
const OPENS: &[(c_long, u32)] = &[
    (libc::SYS_openat, 3),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 2),
];

/// O_CREAT, and O_TMPFILE without the O_DIRECTORY in it.
const MAKES: i32 = libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY);

pub(super) fn program() -> Vec<sock_filter> {
    let mut program = vec![load(4), equal(ARCH, 1, 0), done(KILL), load(0)];
    // x32 numbers would pass by every comparison below.
    program.extend([jump(BPF_JMP | BPF_JGE | BPF_K, 0x4000_0000, 0, 1), done(KILL)]);
    for &nr in DENIED {
        program.extend([equal(number(nr), 0, 1), done(DENY)]);
    }
    // They keep what counts in memory, so they are said to be missing, and the older call is taken.
    for nr in [libc::SYS_clone3, libc::SYS_openat2] {
        program.extend([equal(number(nr), 0, 1), done(fail(libc::ENOSYS))]);
    }
    for &(nr, mode) in MODES {
        program.extend([
            equal(number(nr), 0, 5),
            load(argument(mode)),
            jump(BPF_ALU | BPF_AND | BPF_K, SET_ID, 0, 0),
            equal(0, 0, 1),
            done(ALLOW),
            done(DENY),
        ]);
    }
    for &(nr, mode) in OPENS {
        program.extend([
            equal(number(nr), 0, 8),
            load(argument(mode - 1)),
            jump(BPF_ALU | BPF_AND | BPF_K, MAKES.cast_unsigned(), 0, 0),
            equal(0, 3, 0),
            load(argument(mode)),
            jump(BPF_ALU | BPF_AND | BPF_K, SET_ID, 0, 0),
            equal(0, 0, 1),
            done(ALLOW),
            done(DENY),
        ]);
    }
    program.extend([
        equal(number(libc::SYS_clone), 0, 5),
        load(argument(0)),
        jump(BPF_ALU | BPF_AND | BPF_K, NAMESPACES.cast_unsigned(), 0, 0),
        equal(0, 0, 1),
        done(ALLOW),
        done(DENY),
    ]);
    program.extend([equal(number(libc::SYS_socket), 0, FAMILIES.len() + 3), load(argument(0))]);
    for (n, family) in FAMILIES.iter().enumerate() {
        program.push(equal(family.cast_unsigned(), FAMILIES.len() - n, 0));
    }
    program.extend([done(fail(libc::EAFNOSUPPORT)), done(ALLOW)]);
    program.push(done(ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would say: classic BPF, as much of it as is used here.
    fn verdict(arch: u32, nr: c_long, arguments: &[i32]) -> u32 {
        let mut data = number(nr).to_le_bytes().to_vec();
        data.extend(arch.to_le_bytes());
        data.extend([0; 8]);
        for n in 0..6 {
            let argument = arguments.get(n).copied().unwrap_or(0);
            data.extend(u64::from(argument.cast_unsigned()).to_le_bytes());
        }
        let (program, mut at, mut acc) = (program(), 0, 0u32);
        loop {
            let now = program[at];
            at += 1;
            match u32::from(now.code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    let from = now.k as usize;
                    acc = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                }
                code if code == BPF_ALU | BPF_AND | BPF_K => acc &= now.k,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => {
                    at += usize::from(if acc == now.k { now.jt } else { now.jf });
                }
                code if code == BPF_JMP | BPF_JGE | BPF_K => {
                    at += usize::from(if acc >= now.k { now.jt } else { now.jf });
                }
                code if code == BPF_RET | BPF_K => return now.k,
                code => panic!("instruction {code}"),
            }
        }
    }

    #[test]
    fn each_call_gets_its_verdict() {
        let of = |nr, first| verdict(ARCH, nr, &[first]);
        for &nr in DENIED {
            assert_eq!(of(nr, 0), DENY, "call {nr}");
        }
        for nr in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_connect] {
            assert_eq!(of(nr, libc::AF_UNIX), ALLOW, "call {nr}");
        }
        for family in FAMILIES {
            assert_eq!(of(libc::SYS_socket, *family), ALLOW);
        }
        for family in [libc::AF_UNIX, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, -1] {
            assert_eq!(of(libc::SYS_socket, family), fail(libc::EAFNOSUPPORT), "family {family}");
        }
        assert_eq!(of(libc::SYS_clone, libc::CLONE_THREAD | libc::CLONE_VM), ALLOW);
        assert_eq!(of(libc::SYS_clone, libc::CLONE_NEWUSER | libc::CLONE_VM), DENY);
        assert_eq!(of(libc::SYS_clone3, 0), fail(libc::ENOSYS));
        assert_eq!(of(libc::SYS_openat2, 0), fail(libc::ENOSYS));
        for (nr, at) in [(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (452, 2)] {
            for (mode, right) in [(0o755, ALLOW), (0o4755, DENY), (0o2700, DENY), (0o1777, ALLOW)] {
                let mut arguments = [0; 6];
                arguments[at] = mode;
                assert_eq!(verdict(ARCH, nr, &arguments), right, "call {nr}, {mode:o}");
            }
        }
        let open = |flags, mode| verdict(ARCH, libc::SYS_openat, &[0, 0, flags, mode]);
        assert_eq!(open(libc::O_RDONLY, 0o4755), ALLOW, "no mode counts");
        assert_eq!(open(libc::O_WRONLY | libc::O_DIRECTORY, 0o4755), ALLOW);
        assert_eq!(open(libc::O_WRONLY | libc::O_CREAT, 0o644), ALLOW);
        assert_eq!(open(libc::O_WRONLY | libc::O_CREAT, 0o4755), DENY);
        assert_eq!(open(libc::O_RDWR | libc::O_TMPFILE, 0o6755), DENY);
        assert_eq!(verdict(0x4000_0003, libc::SYS_read, &[]), KILL, "32-bit calls");
        assert_eq!(of(libc::SYS_read | 0x4000_0000, 0), KILL, "x32 calls");
    }
}
