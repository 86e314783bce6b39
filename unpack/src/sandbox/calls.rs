//! The lists of system calls: what passes, for whom, and what kills at once. How they become a filter is in
//! `filter`; docs/unpack.md has this very table.

use libc::c_long;

/// With which arguments a call passes. Of each argument the lower half is judged: all of these are
/// 32 bits wide to the kernel, or flags that have no others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Judged {
    /// Any.
    Any,
    /// This argument is one of these.
    OneOf(u8, &'static [i32]),
    /// This argument has this bit.
    With(u8, i32),
    /// This argument has none of these bits.
    Without(u8, i32),
    /// This argument is our own process.
    Own(u8),
}

/// A call that passes.
#[cfg_attr(not(test), allow(dead_code, reason = "names and reasons are for the documentation"))]
pub(super) struct Call {
    pub(super) number: c_long,
    pub(super) name: &'static str,
    pub(super) judged: Judged,
    /// What happens to one with other arguments.
    pub(super) otherwise: u32,
    pub(super) why: &'static str,
}

macro_rules! calls {
    ($($call:ident $number:ident $judged:expr, $otherwise:expr, $why:expr;)*) => {
        &[$(Call {
            number: libc::$number,
            name: stringify!($call),
            judged: $judged,
            otherwise: $otherwise,
            why: $why,
        }),*]
    };
}

use Judged::{Any, OneOf, Own, With, Without};

/// linux/prctl.h; glibc names its allocations with it.
pub(super) const PR_SET_VMA: i32 = 0x5356_4d41;

/// What the standard library and fdopendir(3) ask of an fd.
pub(super) const FCNTL: &[i32] =
    &[libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];

#[rustfmt::skip]
pub(super) const ALLOWED: &[Call] = calls![
    read SYS_read Any, KILL, "contents of files, for a digest";
    pread64 SYS_pread64 Any, KILL, "temporary records";
    pwrite64 SYS_pwrite64 Any, KILL, "temporary records, parts of sparse files";
    write SYS_write Any, KILL, "contents of files, the manifest, words to the parent";
    close SYS_close Any, KILL, "files";
    openat SYS_openat Any, KILL, "new files, and back by .. from a removed directory";
    openat2 SYS_openat2 Any, KILL, "directories, beneath the root and through no link";
    fstat SYS_fstat Any, KILL, "which inode was opened";
    newfstatat SYS_newfstatat Any, KILL, "what is at a name";
    fstatfs SYS_fstatfs Any, KILL, "room for the next file";
    getdents64 SYS_getdents64 Any, KILL, "what an opaque directory or a removal holds";
    readlinkat SYS_readlinkat Any, KILL, "links on the way to a parent";
    mkdirat SYS_mkdirat Any, KILL, "directories";
    mknodat SYS_mknodat Any, KILL, "device nodes and FIFOs";
    symlinkat SYS_symlinkat Any, KILL, "symbolic links";
    linkat SYS_linkat Any, KILL, "hard links";
    unlinkat SYS_unlinkat Any, KILL, "whiteouts and replacements";
    fchown SYS_fchown Any, KILL, "owners of files";
    fchownat SYS_fchownat Any, KILL, "owners of what must not be opened";
    fchdir SYS_fchdir Any, KILL, "attributes of what must not be opened";
    fchmod SYS_fchmod Any, KILL, "modes of files";
    fchmodat2 SYS_fchmodat2 Any, KILL, "modes of device nodes, by handle";
    utimensat SYS_utimensat Any, KILL, "times";
    fallocate SYS_fallocate Any, KILL, "a place for large files";
    ftruncate SYS_ftruncate Any, KILL, "a hole at the end of a sparse file";
    fsetxattr SYS_fsetxattr Any, KILL, "attributes";
    fgetxattr SYS_fgetxattr Any, KILL, "inherited ACLs; attributes, for a digest";
    flistxattr SYS_flistxattr Any, KILL, "what a replaced directory had";
    fremovexattr SYS_fremovexattr Any, KILL, "what a replaced directory had";
    lsetxattr SYS_lsetxattr Any, KILL, "ACLs of device nodes and FIFOs";
    lgetxattr SYS_lgetxattr Any, KILL, "attributes of device nodes, for a digest";
    llistxattr SYS_llistxattr Any, KILL, "attributes of device nodes, for a digest";
    lremovexattr SYS_lremovexattr Any, KILL, "inherited ACLs of device nodes and FIFOs";
    syncfs SYS_syncfs Any, KILL, "--sync";
    sync_file_range SYS_sync_file_range Any, KILL, "large files, written out beside the work";
    lseek SYS_lseek Any, KILL, "a directory read again by the C library";
    fcntl SYS_fcntl OneOf(1, FCNTL), DENY,
        "a second fd, and a directory's stream; never an owner or a signal";
    geteuid SYS_geteuid Any, KILL, "whom new files belong to";
    getegid SYS_getegid Any, KILL, "whom new files belong to";
    umask SYS_umask Any, KILL, "exact modes at creation";
    recvfrom SYS_recvfrom Any, KILL, "words of the parent";
    sendto SYS_sendto Any, KILL, "words to the parent";
    mmap SYS_mmap Without(2, libc::PROT_EXEC), DENY, "memory; never to run";
    munmap SYS_munmap Any, KILL, "memory";
    mprotect SYS_mprotect Without(2, libc::PROT_EXEC), DENY, "stacks of threads; never to run";
    madvise SYS_madvise Any, KILL, "memory of the allocator";
    brk SYS_brk Any, KILL, "memory of the allocator";
    futex SYS_futex Any, KILL, "threads that wait for each other";
    set_robust_list SYS_set_robust_list Any, KILL, "a thread's start";
    rseq SYS_rseq Any, KILL, "a thread's start";
    sigaltstack SYS_sigaltstack Any, KILL, "a thread's start: where an overflown stack is reported";
    rt_sigaction SYS_rt_sigaction Any, KILL, "an overflown stack, reported and ended";
    rt_sigprocmask SYS_rt_sigprocmask Any, KILL, "a thread's start";
    rt_sigreturn SYS_rt_sigreturn Any, KILL, "the end of a signal's handler";
    restart_syscall SYS_restart_syscall Any, KILL, "a wait that went on after a stop";
    sched_yield SYS_sched_yield Any, KILL, "a lock that is contended";
    sched_getaffinity SYS_sched_getaffinity Any, KILL, "the C library, for a thread's stack";
    clock_gettime SYS_clock_gettime Any, KILL, "--time-max and --processor-max";
    clock_nanosleep SYS_clock_nanosleep Any, KILL, "a lock that is contended";
    gettid SYS_gettid Any, KILL, "abort";
    getpid SYS_getpid Any, KILL, "abort";
    tgkill SYS_tgkill Own(0), KILL, "abort; no process but our own";
    getrandom SYS_getrandom Any, KILL, "keys of hash tables";
    clone SYS_clone With(0, libc::CLONE_THREAD), KILL, "a thread, never a process";
    unshare SYS_unshare OneOf(0, &[libc::CLONE_FS]), KILL, "an own umask for the thread that writes";
    prctl SYS_prctl OneOf(0, &[libc::PR_SET_NAME, PR_SET_VMA]), DENY,
        "a thread's name, and that of the allocator's memory";
    exit SYS_exit Any, KILL, "a thread's end";
    exit_group SYS_exit_group Any, KILL, "the end";
];

/// What work needs that has all open that it reads and writes, and names nothing.
pub(super) const NAMELESS: &[c_long] = &[
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_write,
    libc::SYS_sendto,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What passes besides where a layer comes in: words with the parent, and threads that inflate and hash.
pub(super) const STREAM: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_clone,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_nanosleep,
    libc::SYS_prctl,
    libc::SYS_fcntl,
];

/// What passes besides where trees below directories are read, and nothing is written to them.
pub(super) const READS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_fchdir,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_lgetxattr,
    libc::SYS_llistxattr,
    libc::SYS_fcntl,
];

pub(super) const DEADLY: &[c_long] = &[
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
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_setuid,
    libc::SYS_setgid,
];

pub(super) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
pub(super) const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
pub(super) const DENY: u32 = fail(libc::EPERM);

pub(super) const fn fail(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
}
