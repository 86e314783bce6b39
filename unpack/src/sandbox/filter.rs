//! The seccomp allow-list: what the extractor calls, and no more (seccomp(2)).
//!
//! A call on the list passes, some only with the arguments that are used; those that only an
//! attacker has a use for kill the process; any other fails with EPERM, so that a C library that
//! tries something new is told no, not killed. Filters see registers, not memory: what `openat2` is
//! asked to resolve is not seen here. Which calls, and why: docs/unpack.md has this very table.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long,
    sock_filter,
};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// With which arguments a call passes. Of each argument the lower half is judged: all of these are
/// 32 bits wide to the kernel, or flags that have no others.
#[derive(Clone, Copy, Debug)]
enum Judged {
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
struct Call {
    number: c_long,
    name: &'static str,
    judged: Judged,
    /// What happens to one with other arguments.
    otherwise: u32,
    why: &'static str,
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
const PR_SET_VMA: i32 = 0x5356_4d41;

/// What the standard library and fdopendir(3) ask of an fd.
const FCNTL: &[i32] = &[libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];

#[rustfmt::skip]
const ALLOWED: &[Call] = calls![
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
    sigaltstack SYS_sigaltstack Any, KILL, "a thread's start: where an overflown stack is told";
    rt_sigaction SYS_rt_sigaction Any, KILL, "an overflown stack, told and ended";
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
const NAMELESS: &[c_long] = &[
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
const STREAM: &[c_long] = &[
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
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_setuid,
    libc::SYS_setgid,
];

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const DENY: u32 = fail(libc::EPERM);

const fn fail(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
}

fn step(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    let code = u16::try_from(code).unwrap_or(u16::MAX);
    sock_filter { code, jt: yes, jf: no, k }
}

fn load(offset: u32) -> sock_filter {
    step(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn equal(k: u32, yes: u8, no: u8) -> sock_filter {
    jump(BPF_JMP | BPF_JEQ | BPF_K, k, yes, no)
}

fn done(verdict: u32) -> sock_filter {
    step(BPF_RET | BPF_K, verdict)
}

fn number(nr: c_long) -> u32 {
    u32::try_from(nr).unwrap_or(u32::MAX)
}

impl Call {
    /// What comes after the call's number was found equal; every way through it ends.
    fn body(&self, own: u32) -> Vec<sock_filter> {
        // Offsets are those of `struct seccomp_data`; the lower half comes first.
        let argument = |at: u8| load(16 + 8 * u32::from(at));
        let and = |mask: i32| step(BPF_ALU | BPF_AND | BPF_K, mask.cast_unsigned());
        let ends = [done(ALLOW), done(self.otherwise)];
        match self.judged {
            Any => vec![done(ALLOW)],
            OneOf(at, values) => {
                let mut body = vec![argument(at)];
                for (n, value) in values.iter().enumerate() {
                    let left = u8::try_from(values.len() - n - 1).unwrap_or(u8::MAX);
                    body.push(equal(value.cast_unsigned(), left, u8::from(left == 0)));
                }
                body.extend(ends);
                body
            }
            With(at, bit) => {
                let mut body = vec![argument(at), and(bit), equal(bit.cast_unsigned(), 0, 1)];
                body.extend(ends);
                body
            }
            Without(at, bits) => {
                let mut body = vec![argument(at), and(bits), equal(0, 0, 1)];
                body.extend(ends);
                body
            }
            Own(at) => {
                let mut body = vec![argument(at), equal(own, 0, 1)];
                body.extend(ends);
                body
            }
        }
    }
}

/// The filter, for the process that calls this.
pub(crate) fn program() -> Vec<sock_filter> {
    of(ALLOWED.iter())
}

/// The filter of a process that names nothing: fewer calls pass, with the same arguments.
pub(crate) fn nameless() -> Vec<sock_filter> {
    of(ALLOWED.iter().filter(|call| NAMELESS.contains(&call.number)))
}

/// The same for one to whom a layer streams in.
pub(crate) fn nameless_stream() -> Vec<sock_filter> {
    let passes = |call: &&Call| NAMELESS.contains(&call.number) || STREAM.contains(&call.number);
    of(ALLOWED.iter().filter(passes))
}

fn of(allowed: impl Iterator<Item = &'static Call>) -> Vec<sock_filter> {
    let mut program = vec![load(4), equal(ARCH, 1, 0), done(KILL), load(0)];
    // x32 numbers would pass by every comparison below.
    program.extend([jump(BPF_JMP | BPF_JGE | BPF_K, 0x4000_0000, 0, 1), done(KILL)]);
    for call in allowed {
        let body = call.body(std::process::id());
        program.push(equal(number(call.number), 0, u8::try_from(body.len()).unwrap_or(u8::MAX)));
        program.extend(body);
    }
    for &nr in DEADLY {
        program.extend([equal(number(nr), 0, 1), done(KILL)]);
    }
    // clone3 keeps its flags in memory, so it is said to be missing and the C library takes clone.
    program.extend([equal(number(libc::SYS_clone3), 0, 1), done(fail(libc::ENOSYS))]);
    program.push(done(DENY));
    program
}

/// One line for each call that passes: its name, its arguments, what happens to others, why.
#[cfg(test)]
fn table() -> String {
    use std::fmt::Write;
    let mut table = String::from("| call | passes | otherwise | why |\n|---|---|---|---|\n");
    for call in ALLOWED {
        let (passes, otherwise) = match (call.judged, call.otherwise) {
            (Any, _) => ("always".into(), ""),
            (OneOf(at, values), _) if call.name == "fcntl" => {
                assert_eq!((at, values), (1, FCNTL));
                ("`F_DUPFD_CLOEXEC`, `F_GETFD`, `F_SETFD`, `F_GETFL`".to_owned(), "")
            }
            (OneOf(_, [libc::CLONE_FS]), _) => ("just `CLONE_FS`".into(), ""),
            (OneOf(..), _) => ("`PR_SET_NAME`, `PR_SET_VMA`".into(), ""),
            (With(..), _) => ("with `CLONE_THREAD`".into(), ""),
            (Without(..), _) => ("without `PROT_EXEC`".into(), ""),
            (Own(_), _) => ("to our own process".into(), ""),
        };
        let otherwise = match (call.judged, call.otherwise) {
            (Any, _) => otherwise,
            (_, KILL) => "killed",
            (_, _) => "EPERM",
        };
        // Writing to a String cannot fail.
        match writeln!(table, "| `{}` | {passes} | {otherwise} | {} |", call.name, call.why) {
            Ok(()) | Err(_) => {}
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would say: classic BPF, as much of it as is used here.
    fn verdict(nr: c_long, args: [u64; 6]) -> u32 {
        judge(&program(), nr, args)
    }

    fn judge(program: &[sock_filter], nr: c_long, args: [u64; 6]) -> u32 {
        let mut data = number(nr).to_le_bytes().to_vec();
        data.extend(ARCH.to_le_bytes());
        data.extend([0; 8]);
        args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
        let (mut at, mut acc) = (0, 0u32);
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

    fn with(nr: c_long, at: usize, value: i32) -> u32 {
        let mut args = [0; 6];
        args[at] = u64::from(value.cast_unsigned());
        verdict(nr, args)
    }

    #[test]
    fn no_call_is_on_both_lists() {
        assert!(ALLOWED.iter().all(|call| !DEADLY.contains(&call.number)));
        assert!(program().len() < 4096);
        let mut seen = std::collections::HashSet::new();
        assert!(ALLOWED.iter().all(|call| seen.insert(call.number)));
    }

    /// Each call passes as it is used, and the numbers beside it and its other arguments do not.
    #[test]
    fn every_call_passes_and_its_neighbours_do_not() {
        for call in ALLOWED {
            let right = match call.judged {
                Any => verdict(call.number, [u64::MAX; 6]),
                OneOf(at, values) => {
                    let all = values.iter().map(|&value| with(call.number, at.into(), value));
                    all.fold(ALLOW, |worst, got| if got == ALLOW { worst } else { got })
                }
                With(at, bit) => with(call.number, at.into(), bit),
                Without(at, bits) => with(call.number, at.into(), !bits),
                Own(at) => with(call.number, at.into(), std::process::id().cast_signed()),
            };
            assert_eq!(right, ALLOW, "{}", call.name);
            let wrong = match call.judged {
                Any => continue,
                OneOf(at, values) => with(call.number, at.into(), values[0] ^ 0x4000),
                With(at, bit) => with(call.number, at.into(), !bit),
                Without(at, bits) => with(call.number, at.into(), bits | 1),
                Own(at) => with(call.number, at.into(), std::process::id().cast_signed() ^ 1),
            };
            assert_eq!(wrong, call.otherwise, "{}", call.name);
        }
        for nr in 0..1000 {
            let known = ALLOWED.iter().any(|call| call.number == nr);
            let expected = match nr {
                _ if known => continue,
                _ if DEADLY.contains(&nr) => KILL,
                libc::SYS_clone3 => fail(libc::ENOSYS),
                _ => DENY,
            };
            assert_eq!(verdict(nr, [0; 6]), expected, "call {nr}");
            assert_eq!(verdict(nr | 0x4000_0000, [0; 6]), KILL, "x32 call {nr}");
        }
    }

    /// The arguments by which a child that was taken over could reach a process of the host.
    #[test]
    fn no_argument_reaches_another_process() {
        // asm-generic/fcntl.h.
        const F_SETSIG: i32 = 10;
        const F_SETOWN_EX: i32 = 15;
        let init = 1;
        assert_eq!(with(libc::SYS_tgkill, 0, init), KILL);
        assert_eq!(with(libc::SYS_tgkill, 0, -1), KILL);
        for nr in [libc::SYS_kill, libc::SYS_tkill, libc::SYS_pidfd_send_signal] {
            assert_eq!(verdict(nr, [1, 9, 0, 0, 0, 0]), KILL);
        }
        for command in [
            libc::F_SETOWN,
            F_SETOWN_EX,
            F_SETSIG,
            libc::F_SETFL,
            libc::F_SETLEASE,
            libc::F_NOTIFY,
            libc::F_SETLK,
            libc::F_DUPFD,
            libc::F_SETPIPE_SZ,
        ] {
            assert_eq!(with(libc::SYS_fcntl, 1, command), DENY, "fcntl {command}");
        }
        let all = libc::PROT_READ | libc::PROT_WRITE;
        for nr in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(with(nr, 2, all), ALLOW);
            assert_eq!(with(nr, 2, all | libc::PROT_EXEC), DENY);
        }
        for nr in
            [libc::SYS_mremap, libc::SYS_pkey_mprotect, libc::SYS_fchmodat, libc::SYS_renameat2]
        {
            assert_eq!(verdict(nr, [0; 6]), DENY);
        }
        for flags in [libc::CLONE_NEWUSER, libc::CLONE_FS | libc::CLONE_NEWNS, libc::CLONE_FILES] {
            assert_eq!(with(libc::SYS_unshare, 0, flags), KILL);
        }
    }

    /// Who names nothing can open nothing, and has no more of any call than the others.
    #[test]
    fn what_is_nameless_has_less() {
        let program = nameless();
        for nr in 0..1000 {
            let (more, less) = (verdict(nr, [0; 6]), judge(&program, nr, [0; 6]));
            let passes = NAMELESS.contains(&nr);
            assert!(if passes { less == more } else { less != ALLOW }, "call {nr}: {less:x}");
        }
        for nr in [libc::SYS_openat, libc::SYS_openat2, libc::SYS_read, libc::SYS_newfstatat] {
            assert_eq!(judge(&program, nr, [0; 6]), DENY);
        }
        let docs = include_str!("../../../docs/unpack.md");
        let named = |call: &&Call| NAMELESS.contains(&call.number);
        let names = ALLOWED.iter().filter(named).map(|call| format!("`{}`", call.name));
        let names = names.collect::<Vec<_>>().join(", ");
        assert!(docs.contains(&names), "docs/unpack.md wants this: {names}");
    }

    #[test]
    fn the_documentation_has_this_table() {
        let docs = include_str!("../../../docs/unpack.md");
        assert!(docs.contains(&table()), "docs/unpack.md wants this table:\n{}", table());
    }
}
