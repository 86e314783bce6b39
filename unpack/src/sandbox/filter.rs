//! The seccomp allow-list: what the extractor calls, and no more (seccomp(2)).
//!
//! A call on the list passes, some only with the arguments that are used; those that only an
//! attacker has a use for kill the process; any other fails with EPERM, so that a C library that
//! tries something new is told no, not killed. Filters see registers, not memory: what `openat2` is
//! asked to resolve is not seen here. Which calls, and why: `calls`.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long,
    sock_filter,
};

#[cfg(test)]
use crate::sandbox::calls::FCNTL;
use crate::sandbox::calls::Judged::{Any, OneOf, Own, With, Without};
use crate::sandbox::calls::{
    ALLOW, ALLOWED, Call, DEADLY, DENY, KILL, NAMELESS, READS, STREAM, fail,
};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

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

/// The same for one that reads trees below directories.
pub(crate) fn reading() -> Vec<sock_filter> {
    let passes = |call: &&Call| NAMELESS.contains(&call.number) || READS.contains(&call.number);
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

    /// Who only reads can change nothing of what it can name.
    #[test]
    fn what_reads_changes_nothing() {
        let program = reading();
        for nr in 0..1000 {
            let (more, less) = (verdict(nr, [0; 6]), judge(&program, nr, [0; 6]));
            let passes = NAMELESS.contains(&nr) || READS.contains(&nr);
            assert!(if passes { less == more } else { less != ALLOW }, "call {nr}: {less:x}");
        }
        for nr in [libc::SYS_unlinkat, libc::SYS_fchownat, libc::SYS_fsetxattr, libc::SYS_utimensat]
        {
            assert_eq!(judge(&program, nr, [0; 6]), DENY);
        }
        let docs = include_str!("../../../docs/unpack.md");
        let named = |call: &&Call| READS.contains(&call.number);
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
