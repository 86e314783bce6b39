//! The seccomp allow-list: what the extractor calls, and no more (seccomp(2)).
//!
//! A call on the list passes; those that only an attacker has a use for kill the process; any
//! other fails with EPERM, so that a C library that tries something new is told no, not killed.
//! Filters see registers, not memory: what `openat2` is asked to resolve is not seen here.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long,
    sock_filter,
};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

const ALLOWED: &[c_long] = &[
    // files
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fallocate,
    libc::SYS_fsetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_lgetxattr,
    libc::SYS_lremovexattr,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_geteuid,
    libc::SYS_getegid,
    libc::SYS_umask,
    // what goes between parent and child
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    // memory, threads, time
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_getrandom,
    libc::SYS_ppoll,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

const DEADLY: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_open_by_handle_at,
    libc::SYS_pidfd_getfd,
    libc::SYS_setuid,
    libc::SYS_setgid,
];

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

fn fail(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
}

fn step(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    let code = u16::try_from(code).unwrap_or(u16::MAX);
    sock_filter { code, jt: yes, jf: no, k }
}

/// The filter. Offsets are those of `struct seccomp_data`: nr 0, arch 4, args from 16 on.
pub(crate) fn program() -> Vec<sock_filter> {
    let load = |offset| step(BPF_LD | BPF_W | BPF_ABS, offset);
    let equal = |k, yes, no| jump(BPF_JMP | BPF_JEQ | BPF_K, k, yes, no);
    let done = |verdict| step(BPF_RET | BPF_K, verdict);
    let number = |nr: c_long| u32::try_from(nr).unwrap_or(u32::MAX);
    let mut program = vec![load(4), equal(ARCH, 1, 0), done(KILL), load(0)];
    // x32 numbers would pass by every comparison below.
    program.extend([jump(BPF_JMP | BPF_JGE | BPF_K, 0x4000_0000, 0, 1), done(KILL)]);
    for &nr in ALLOWED {
        program.extend([equal(number(nr), 0, 1), done(ALLOW)]);
    }
    for &nr in DEADLY {
        program.extend([equal(number(nr), 0, 1), done(KILL)]);
    }
    // A thread, never a process. clone3 keeps its flags in memory, so it is said to be missing
    // and the C library takes clone.
    program.extend([equal(number(libc::SYS_clone3), 0, 1), done(fail(libc::ENOSYS))]);
    let thread = libc::CLONE_THREAD.cast_unsigned();
    program.extend([
        equal(number(libc::SYS_clone), 0, 5),
        load(16),
        step(BPF_ALU | BPF_AND | BPF_K, thread),
        equal(thread, 0, 1),
        done(ALLOW),
        done(KILL),
    ]);
    // An own umask per thread.
    program.extend([
        equal(number(libc::SYS_unshare), 0, 4),
        load(16),
        equal(libc::CLONE_FS.cast_unsigned(), 0, 1),
        done(ALLOW),
        done(KILL),
    ]);
    // Naming a thread, and memory of the allocator; nothing that changes privileges.
    program.extend([
        equal(number(libc::SYS_prctl), 0, 5),
        load(16),
        equal(libc::PR_SET_NAME.cast_unsigned(), 1, 0),
        equal(PR_SET_VMA, 0, 1),
        done(ALLOW),
        done(fail(libc::EPERM)),
    ]);
    program.push(done(fail(libc::EPERM)));
    program
}

/// linux/prctl.h; glibc names its allocations with it.
const PR_SET_VMA: u32 = 0x5356_4d41;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_on_both_lists() {
        assert!(ALLOWED.iter().all(|nr| !DEADLY.contains(nr)));
        assert!(program().len() < 4096);
    }
}
