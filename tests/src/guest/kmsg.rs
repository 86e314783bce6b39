//! The kernel log from a moment on, out of /dev/kmsg.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Result;

/// Reads what the kernel has logged since this was made.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// Starts after the newest record.
    ///
    /// # Errors
    /// /dev/kmsg cannot be opened.
    pub fn from_now() -> Result<KernelLog> {
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut file = OpenOptions::new().read(true).custom_flags(nonblock).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(KernelLog(file))
    }

    /// The messages since the last read, at most the last 200.
    ///
    /// # Errors
    /// /dev/kmsg cannot be read.
    pub fn read(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = [0_u8; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => break,
                Ok(length) => lines.extend(message(&record[..length])),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // EPIPE: records were overwritten before we came; the next read goes on after them.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error.into()),
            }
        }
        let extra = lines.len().saturating_sub(200);
        Ok(lines.split_off(extra))
    }
}

/// "6,339,5140900,-;NET: Registered" is priority, number, microseconds, flags; then the text.
/// (kernel doc ABI/testing/dev-kmsg)
fn message(record: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(record);
    let (head, rest) = text.split_once(';')?;
    let micros: u64 = head.split(',').nth(2)?.parse().ok()?;
    let line = rest.lines().next()?;
    Some(format!("[{:>4}.{:06}] {line}", micros / 1_000_000, micros % 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn a_record_becomes_a_line() {
        let record = b"6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=x\n";
        let line = message(record).unwrap();
        assert_eq!(line, "[   5.140900] NET: Registered protocol family 10");
    }
}
